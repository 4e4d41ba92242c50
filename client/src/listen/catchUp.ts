/** Reads what was committed since the cursor, once, however often the reading breaks off. */
import type { Query } from '@pg-signals/db';
import type { Logger } from '../logger.ts';
import { BEGINNING, type Page, type ReadingPlace, readPage, readStandbyPage } from './committedRows.ts';
import { Cursor, type DeliveredRows } from './cursor.ts';
import { fateOf, SnapshotHistory } from './failover.ts';
import type { FeedRow, TableColumns } from './feedTable.ts';
import type { Snapshot } from './snapshot.ts';

/** Before every transaction: 3 is the first that a cluster gives out. */
const FIRST_SNAPSHOT = '3:3:';

/** Rows in the order in which they are to be delivered, and what is to be known of each. */
export interface RowSource<Item> {
  readonly name: 'notify' | 'catch_up';
  /** The next item; undefined when there is none now. */
  next(): Item | undefined;
  /** What comes after it. */
  waiting(): Iterable<Item>;
  /** True for a row that was delivered before. */
  isDuplicate(row: FeedRow): boolean;
  /** To be called just before a row is delivered. */
  record(row: FeedRow): void;
}

export interface CatchUpOptions {
  query: Query;
  table: TableColumns;
  logger: Logger;
  observer: { serverChanged(): void };
  readTimeoutMs: number;
  /** Delivers what a source has, until it has nothing or `ended` aborts. */
  deliver: (source: RowSource<string>, ended: AbortSignal) => Promise<void>;
}

/** A read that was begun. The next connection goes on with it, so that a long one gets done however often they break. */
interface OpenRead {
  readonly from: Snapshot;
  readonly to: Snapshot;
  /** Delivered beyond `from` before this read, by way of notifications. */
  readonly delivered: DeliveredRows;
  place: ReadingPlace;
}

export class CatchUp {
  readonly #options: CatchUpOptions;
  #history = new SnapshotHistory();
  #cursor: Cursor | undefined;
  #open: OpenRead | undefined;

  constructor(options: CatchUpOptions) {
    this.#options = options;
  }

  /** Undefined before the beginning. */
  get cursor(): Cursor | undefined {
    return this.#cursor;
  }

  /** The first time, every commit counts that this durable snapshot does not cover. After that it does nothing. */
  begin(snapshot: Snapshot): void {
    if (this.#cursor) return;
    this.#cursor = new Cursor(snapshot);
    this.#history.add(snapshot);
  }

  /** Everything that `snapshot` covers was delivered: notifications have proved it. */
  prove(snapshot: Snapshot): void {
    this.#cursor!.prove(snapshot);
    this.#history.add(snapshot);
  }

  /**
   * Delivers all that a durable snapshot covers and the cursor does not; the cursor is there then. Resolves with false when
   * `ended` came first: nothing is lost then, and the next call goes on.
   */
  async readTo(to: Snapshot, ended: AbortSignal): Promise<boolean> {
    if (this.#cursor) await this.#checkServer(to);
    else if (to.server.standby) await this.#beginOnStandby(to);
    else this.begin(to);
    if (to.server.standby) return this.#readStandby(to, ended);
    while (this.#open || this.#cursor!.snapshot !== to) {
      const { snapshot: from } = this.#cursor!;
      this.#open ??= { from, to, delivered: this.#cursor!.delivered(), place: BEGINNING };
      await this.#read(this.#open, ended);
      if (ended.aborted) return false;
      const reached = this.#open.to;
      this.#open = undefined;
      this.#cursor!.moveTo(reached);
      this.#history.add(reached);
    }
    return true;
  }

  async #read(open: OpenRead, ended: AbortSignal): Promise<void> {
    const { query, table, readTimeoutMs: timeoutMs } = this.#options;
    await this.#deliverPages({
      first: open.place,
      page: (place) => readPage(query, table, { from: open.from, to: open.to, place, timeoutMs }),
      isDuplicate: (row) => open.delivered.has(row),
      // Pages are in order, so where reading stands moves with each row.
      record: ({ xid, id }) => {
        open.place = { part: open.place.part, xid, id: String(id) };
      },
      pageDone: (next) => {
        open.place = next ?? open.place;
      },
      ended,
    });
  }

  /** What a standby shows of transactions that may still be running was committed before the beginning. */
  async #beginOnStandby(now: Snapshot): Promise<void> {
    const { query, table, readTimeoutMs: timeoutMs } = this.#options;
    const from = settledBelow(now);
    const cursor = new Cursor(from);
    for (let place: ReadingPlace | undefined = BEGINNING; place; ) {
      const page: Page = await readStandbyPage(query, table, { from, place, timeoutMs });
      for (const [, xid, id] of page.rows) cursor.record({ xid, id: Number(id) });
      place = page.next;
    }
    this.#cursor = cursor;
    this.#history.add(from);
  }

  /**
   * A standby shows rows, but not which transactions are running. So each time everything from the oldest of them on is read
   * again, and what was delivered of it is remembered until it lies below.
   */
  async #readStandby(now: Snapshot, ended: AbortSignal): Promise<boolean> {
    const { query, table, readTimeoutMs: timeoutMs } = this.#options;
    const cursor = this.#cursor!;
    const delivered = cursor.delivered();
    this.#open = undefined;
    let shown = 0;
    await this.#deliverPages({
      first: BEGINNING,
      page: (place) => readStandbyPage(query, table, { from: cursor.snapshot, place, timeoutMs }),
      isDuplicate: (row) => {
        const duplicate = delivered.has(row);
        if (duplicate && Number(row.xid) >= now.xmin) shown++;
        return duplicate;
      },
      record: (row) => cursor.record(row),
      pageDone: () => {},
      ended,
    });
    if (ended.aborted) return false;
    // Below xmin this standby shows all that there is. But if it lags behind another server that we read before, it may still
    // be promoted without what that one has shown us: until it shows all of that, the cursor stays on the other's history.
    const settled = now.xmin >= cursor.snapshot.xmax && shown === delivered.countFrom(now.xmin);
    if (settled) cursor.moveTo(settledBelow(now));
    return true;
  }

  /** Page by page, the next one on its way while the callbacks have this one. */
  async #deliverPages({
    first,
    page,
    isDuplicate,
    record,
    pageDone,
    ended,
  }: {
    first: ReadingPlace;
    page: (place: ReadingPlace) => Promise<Page>;
    isDuplicate: (row: FeedRow) => boolean;
    record: (row: FeedRow) => void;
    pageDone: (next: ReadingPlace | undefined) => void;
    ended: AbortSignal;
  }): Promise<void> {
    for (let coming: Promise<Page> | undefined = page(first); coming; ) {
      const { rows, next }: Page = await coming;
      if (ended.aborted) return;
      coming = next && page(next);
      coming?.catch(() => {}); // thrown by the await above, when the callbacks are done with this page
      let at = 0;
      const source: RowSource<string> = {
        name: 'catch_up',
        next: () => rows[at++]?.[0],
        waiting: () => rows.slice(at).map(([payload]) => payload),
        isDuplicate,
        record,
      };
      await this.#options.deliver(source, ended);
      if (ended.aborted) return;
      pageDone(next);
    }
  }

  /** Makes sure that the cursor means something on the server that answers now; otherwise goes back to one that does. */
  async #checkServer(now: Snapshot): Promise<void> {
    const cursor = this.#cursor!;
    const reached = this.#open?.to ?? cursor.snapshot;
    const fate = await fateOf(this.#options.query, reached, now);
    if (fate.is === 'same') return;
    if (fate.is === 'other') {
      this.#warn(now, reached, 'it is another database cluster: reading its table from the start');
      this.#history = new SnapshotHistory();
      this.#startFrom(now.with({ text: FIRST_SNAPSHOT, lsn: 0n }));
      return;
    }
    // What an open read had delivered before it began is covered by the snapshot that it reads to.
    if (this.#open && fate.fork !== undefined && reached.lsn <= fate.fork) return;
    const shared = this.#history.before(reached.server.timeline, fate.fork, [cursor.proved, cursor.snapshot]);
    const holds = !this.#open && (shared === cursor.proved || shared === cursor.snapshot);
    cursor.forget((xid) => shared.covers(xid));
    // What remains was delivered by the old server, and the new one may lack it and give its numbers out again.
    if (!holds || cursor.size > 0) {
      const age = Math.round((performance.now() - shared.takenAt) / 1_000);
      this.#warn(now, reached, `it may lack what the old one committed last: reading again from ${age} s ago`);
    }
    // From here on this server's WAL counts, however far the old one's had come.
    this.#startFrom(shared.with({ server: now.server, lsn: 0n }));
  }

  #startFrom(snapshot: Snapshot): void {
    this.#open = undefined;
    this.#cursor = new Cursor(snapshot);
  }

  #warn(now: Snapshot, then: Snapshot, reason: string): void {
    this.#options.observer.serverChanged();
    this.#options.logger.warn('The server has changed, reading again from a safe point: some rows may come twice', {
      table: this.#options.table.table,
      reason,
      timeline: now.server.timeline,
      timeline_before: then.server.timeline,
    });
  }
}

/** All that is certain about a snapshot of a standby: the transactions below xmin are over. */
const settledBelow = (now: Snapshot) => now.with({ text: `${now.xmin}:${now.xmin}:` });
