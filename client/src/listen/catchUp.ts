/** Reads what was committed since the cursor, once, however often the reading breaks off. */
import { isDeepStrictEqual } from 'node:util';
import type { Query } from '@pg-signals/db';
import type { Logger } from '../logger.ts';
import { BEGINNING, type Page, type Reader, type ReadingPlace, readPage, readStandbyPage } from './committedRows.ts';
import { Cursor, type DeliveredRows, type SameRow, type Witness } from './cursor.ts';
import { Failover } from './failover.ts';
import type { FeedRow, FeedTable } from './feedTable.ts';
import type { Deliver, Reading, RowSource } from './reading.ts';
import type { Server, Snapshot } from './snapshot.ts';

export interface CatchUpOptions {
  query: Query;
  table: FeedTable<FeedRow>;
  logger: Logger;
  /** Called when the server is not the one that the cursor was taken on, and some rows may come twice. */
  onServerChanged: () => void;
  readTimeoutMs: number;
  deliver: Deliver;
}

/** A read that was begun. The next connection goes on with it, so that a long one gets done however often they break. */
interface OpenRead {
  readonly from: Snapshot;
  readonly to: Snapshot;
  /** Delivered beyond `from` before this read, by notifications. */
  readonly delivered: DeliveredRows;
  place: ReadingPlace;
  last?: Witness;
}

/** The reading of one consumer: every row, once, as long as this object lives. */
export class CatchUp implements Reading {
  readonly #options: CatchUpOptions;
  readonly #failover: Failover;
  /** Undefined before the beginning. */
  #cursor: Cursor | undefined;
  #readTo: Snapshot | undefined;
  #open: OpenRead | undefined;

  /** A trigger may write a row's JSON otherwise than the page does: what counts is the row that the callbacks get. */
  readonly #isSame: SameRow = (notified, read) => {
    if (notified === read) return true;
    const { parse } = this.#options.table;
    return isDeepStrictEqual(parse(notified), parse(read));
  };

  constructor(options: CatchUpOptions) {
    this.#options = options;
    this.#failover = new Failover({ ...options, isSame: this.#isSame });
  }

  /** Sets the cursor, once: every commit that this durable snapshot does not cover will be delivered. */
  begin(snapshot: Snapshot): void {
    if (!this.#cursor) this.#stand(new Cursor(snapshot));
  }

  wasRead = (xid: number): boolean => this.#readTo!.covers(xid);
  mayBeWanted = (): boolean => true;
  isWanted = (): boolean => true;

  record(xid: number, id: number, payload: string): void {
    this.#cursor!.record(xid, id, payload);
  }

  prove(snapshot: Snapshot): void {
    this.#cursor!.prove(snapshot);
    this.#failover.remember(this.#cursor!);
  }

  #stand(cursor: Cursor): void {
    this.#cursor = cursor;
    this.#failover.remember(cursor);
  }

  async readTo(to: Snapshot, ended: AbortSignal): Promise<boolean> {
    this.#readTo = to;
    if (this.#cursor) await this.#checkServer(this.#cursor, to);
    else if (to.server.standby) this.#stand(await this.#beginOnStandby(to));
    else this.begin(to);
    const cursor = this.#cursor!;
    if (to.server.standby) return this.#readStandby(cursor, to, ended);
    // At most two rounds: to the end of a read that broke off, then on to `to`.
    while (this.#open || cursor.snapshot !== to) {
      this.#open ??= { from: cursor.snapshot, to, delivered: cursor.delivered(this.#isSame), place: BEGINNING };
      const open = this.#open;
      await this.#read(open, to.server, ended);
      if (ended.aborted) return false;
      this.#open = undefined;
      cursor.moveTo(open.to, open.last);
      this.#failover.remember(cursor);
    }
    return true;
  }

  /** Page by page, the next one on its way while the callbacks have this one. */
  async #read(open: OpenRead, server: Server, ended: AbortSignal): Promise<void> {
    const reader = this.#reader(server);
    const page = (place: ReadingPlace) => readPage(reader, { from: open.from, to: open.to, place });
    for (let coming: Promise<Page> | undefined = page(open.place); coming; ) {
      const { payloads, next }: Page = await coming;
      if (ended.aborted) return;
      coming = next && page(next);
      coming?.catch(() => {}); // thrown by the await above, when the callbacks are done with this page
      await this.#deliver(payloads, ended, {
        server,
        isDuplicate: (xid, id, payload) => open.delivered.has(xid, id, payload),
        // Pages are in order, so the place moves with each row.
        record: (xid, id, payload) => {
          open.place = { xid, id: String(id) };
          open.last = { id, payload };
        },
      });
      if (ended.aborted) return;
      if (next) open.place = next;
    }
  }

  async #deliver(
    payloads: readonly string[],
    ended: AbortSignal,
    known: Pick<RowSource<string>, 'server' | 'isDuplicate' | 'record'>,
  ): Promise<void> {
    let at = 0;
    const next = () => payloads[at++];
    const waiting = () => payloads.slice(at);
    await this.#options.deliver({ name: 'catch_up', next, waiting, ...known }, ended);
  }

  // --- on a standby: it shows rows, but not which transactions are running. What lies below xmin is certain -------------

  /** A standby may show rows of transactions above xmin. They were committed before the beginning, so they count as delivered. */
  async #beginOnStandby(now: Snapshot): Promise<Cursor> {
    const cursor = new Cursor(settledBelow(now));
    for await (const payloads of this.#standbyPages(cursor.snapshot, now.server)) {
      for (const payload of payloads) {
        const { xid, id } = JSON.parse(payload) as FeedRow;
        cursor.record(Number(xid), id);
      }
    }
    return cursor;
  }

  /** Reads all from the oldest running transaction on again each time, and leaves out what was delivered of it before. */
  async #readStandby(cursor: Cursor, now: Snapshot, ended: AbortSignal): Promise<boolean> {
    const delivered = cursor.delivered(this.#isSame);
    const open = this.#open;
    const settled = settledBelow(now);
    /** Rows delivered before that are not settled, and that this standby has. */
    let shown = 0;
    for await (const payloads of this.#standbyPages(cursor.snapshot, now.server)) {
      await this.#deliver(payloads, ended, {
        server: now.server,
        isDuplicate(xid, id, payload) {
          const known = delivered.has(xid, id, payload);
          if (known && !settled.covers(xid)) shown++;
          if (!known && open && wasRead(open, xid, id)) cursor.record(xid, id);
          else if (!known) return false;
          return true;
        },
        record(xid, id) {
          cursor.record(xid, id);
          open?.delivered.add(xid, id);
        },
      });
      if (ended.aborted) return false;
    }
    // Where it lags behind another server that was read before, it may still be promoted without what that one has shown.
    // Until it shows all of that, the cursor, and a read of the other that broke off, stay on the other's history.
    const reached = open ? open.to : cursor.snapshot;
    if (now.xmin >= reached.xmax && shown === delivered.countBeyond(settled)) {
      this.#open = undefined;
      cursor.moveTo(settled);
    }
    return true;
  }

  async *#standbyPages(from: Snapshot, server: Server): AsyncGenerator<readonly string[]> {
    const reader = this.#reader(server);
    for (let place: ReadingPlace | undefined = BEGINNING; place; ) {
      const page: Page = await readStandbyPage(reader, { from, place });
      yield page.payloads;
      place = page.next;
    }
  }

  #reader(server: Server): Reader {
    const { query, table, readTimeoutMs: timeoutMs } = this.#options;
    return { query, table, server, timeoutMs };
  }

  /** Makes sure that the cursor means something on the server that answers now; otherwise goes back to one that does. */
  async #checkServer(cursor: Cursor, now: Snapshot): Promise<void> {
    const moved = await this.#failover.check(cursor, this.#open?.to, now);
    if (!moved) return;
    const { logger, table, onServerChanged } = this.#options;
    if (moved.reason !== undefined) {
      onServerChanged();
      logger.warn('The server has changed, reading again from a safe point: some rows may come twice', {
        table: table.table,
        reason: moved.reason,
        timeline: now.server.timeline,
        timeline_before: cursor.snapshot.server.timeline,
      });
    }
    this.#open = undefined;
    this.#stand(moved.cursor);
  }
}

/** True for a row that a read which broke off has delivered, or left out as delivered before. */
function wasRead({ from, to, place }: OpenRead, xid: number, id: number): boolean {
  if (from.covers(xid) || !to.covers(xid)) return false;
  return xid < place.xid || (xid === place.xid && id <= Number(place.id));
}

/** What is certain of a snapshot of a standby. */
const settledBelow = (now: Snapshot) => now.with({ text: `${now.xmin}:${now.xmin}:` });
