/** Brings a consumer level with the table: reads what was committed since its position, once, however often it breaks off. */
import type { Logger } from '@pg-signals/runtime';
import { FIRST_PAGE, type Page, type ReadCursor, readPage, readStandbyPage } from './committedRows.ts';
import type { Query } from './database.ts';
import { Ledger } from './ledger.ts';
import type { LogRow, LogTable } from './logTable.ts';
import { bounds, type Position, takePosition, untilDurable } from './position.ts';
import { fateOf, PositionHistory } from './trust.ts';

/** Before every transaction: 3 is the first that a cluster gives out. */
const FIRST_SNAPSHOT = '3:3:';

export interface CatchUpOptions {
  query: Query;
  log: LogTable<LogRow>;
  logger: Logger;
  readDeadlineMs: number;
  /** Hands on the payloads of a page in order, except those whose id `skip` holds; tells each id as it is handed on. */
  give: (
    payloads: string[],
    skip: (id: number) => boolean,
    handedOn: (id: number) => void,
    ended: AbortSignal,
  ) => Promise<void>;
}

/** A read that was begun: it goes on where it stood, so that a long one gets done however often the server restarts. */
interface OpenRead {
  readonly from: Position;
  readonly to: Position;
  /** Handed on since `from` was taken, by way of notifications. */
  readonly skip: Set<number>;
  cursor: ReadCursor;
  /** Handed on of the page at `cursor`. */
  readonly ofPage: Set<number>;
}

export class CatchUp {
  readonly #options: CatchUpOptions;
  readonly #history = new PositionHistory();
  #ledger: Ledger | undefined;
  #open: OpenRead | undefined;
  /** On a standby: handed on by another server, and not shown by this one yet. Perhaps it never will. */
  #unshown = new Set<number>();

  constructor(options: CatchUpOptions) {
    this.#options = options;
  }

  /** Undefined before the first position. */
  get ledger(): Ledger | undefined {
    return this.#ledger;
  }

  /** From here on every commit counts. */
  begin(position: Position): void {
    this.#ledger = new Ledger(position);
    this.#unshown.clear();
    this.#history.add(position);
  }

  /** A position that notifications have proved. */
  proved(position: Position): void {
    this.#history.add(position);
  }

  /**
   * Hands on all that was committed up to now and not yet handed on. Returns the position that is reached with it and the
   * number of rows read; undefined when `ended` came first, and then nothing is lost and the next call goes on.
   */
  async readUp(ended: AbortSignal): Promise<{ position: Position; rows: number } | undefined> {
    const { query } = this.#options;
    const now = await takePosition(query);
    if (!this.#ledger) {
      await untilDurable(query, now, ended);
      this.begin(now);
      return { position: now, rows: 0 };
    }
    await this.#checkTrust(now);
    if (now.server.standby) return this.#readStandby(now, ended);
    if (!this.#open) {
      // What lies before a durable position stays as it is, whatever crashes: so a read up to it may be resumed in its middle.
      await untilDurable(query, now, ended);
      const { position: from } = this.#ledger;
      this.#open = { from, to: now, skip: this.#handedOn(this.#ledger), cursor: FIRST_PAGE, ofPage: new Set() };
    }
    const read = this.#open;
    const rows = await this.#read(read, ended, () => {});
    if (ended.aborted) return undefined;
    this.#open = undefined;
    this.begin(read.to);
    return { position: read.to, rows };
  }

  /**
   * Hands on what was committed since the position reached, without moving it: the ids go into the ledger. For the moment
   * between the last read and the first notification that counts. Returns those ids.
   */
  async readOverlap(ended: AbortSignal): Promise<{ position: Position; ids: Set<number> }> {
    const ledger = this.#ledger!;
    const to = await takePosition(this.#options.query);
    const ids = new Set<number>();
    await this.#read(
      { from: ledger.position, to, skip: ledger.handedOn(), cursor: FIRST_PAGE, ofPage: new Set() },
      ended,
      (id) => {
        ledger.record(id);
        ids.add(id);
      },
    );
    return { position: to, ids };
  }

  /** Page by page, the next one on its way while the callbacks have this one. Returns the rows read. */
  async #read(read: OpenRead, ended: AbortSignal, handedOn: (id: number) => void): Promise<number> {
    const { log, query, readDeadlineMs: deadlineMs, give } = this.#options;
    const { from, to, skip, ofPage } = read;
    const page = (cursor: ReadCursor) => readPage(query, log, { from, to, cursor, deadlineMs });
    let count = 0;
    for (let coming: Promise<Page> | undefined = page(read.cursor); coming; ) {
      const { rows, next }: Page = await coming;
      if (ended.aborted) break;
      coming = next && page(next);
      coming?.catch(() => {}); // thrown by the await above, when the callbacks are done with this page
      await give(
        rows.map(([payload]) => payload),
        (id) => skip.has(id) || ofPage.has(id),
        (id) => {
          ofPage.add(id);
          handedOn(id);
        },
        ended,
      );
      if (ended.aborted) break;
      count += rows.length;
      if (next) read.cursor = next;
      ofPage.clear();
    }
    return count;
  }

  /**
   * A standby shows rows, but not which transactions are running. So each time everything above the oldest of them is read
   * again, and what was handed on of it is remembered until it lies below.
   */
  async #readStandby(now: Position, ended: AbortSignal): Promise<{ position: Position; rows: number } | undefined> {
    const { log, query, readDeadlineMs: deadlineMs, give } = this.#options;
    this.#open = undefined;
    const ledger = this.#ledger!;
    const skip = this.#handedOn(ledger);
    const { xmin } = bounds(now.snapshot);
    const [settled, unsettled] = [new Set<number>(), new Set<number>()];
    let count = 0;
    let cursor: ReadCursor | undefined;
    do {
      const { rows, next } = await readStandbyPage(query, log, { from: ledger.position, cursor, deadlineMs });
      await give(
        rows.map(([payload]) => payload),
        (id) => skip.has(id),
        (id) => ledger.record(id),
        ended,
      );
      if (ended.aborted) return undefined;
      for (const [, xid, id] of rows) (BigInt(xid) < xmin ? settled : unsettled).add(Number(id));
      count += rows.length;
      cursor = next;
    } while (cursor);
    // The new position stands for all that was handed on when everything that ran at the old one is over.
    if (xmin >= bounds(ledger.position.snapshot).xmax) {
      const unshown = [...this.#handedOn(ledger)].filter((id) => !settled.has(id) && !unsettled.has(id));
      this.begin({ ...now, snapshot: `${xmin}:${xmin}:` });
      for (const id of unsettled) this.#ledger!.record(id);
      this.#unshown = new Set(unshown);
    }
    return { position: now, rows: count };
  }

  #handedOn(ledger: Ledger): Set<number> {
    return ledger.handedOn().union(this.#unshown);
  }

  /** Makes sure that our position means something on the server that answers now; else goes back to one that does. */
  async #checkTrust(now: Position): Promise<void> {
    const ledger = this.#ledger!;
    const position = this.#open?.to ?? ledger.position;
    const fate = await fateOf(this.#options.query, position, now);
    if (fate.is === 'same') {
      const promoted =
        position.server.standby && !now.server.standby && position.server.startedAt === now.server.startedAt;
      if (promoted && this.#unshown.size > 0) {
        this.#warn(now, position, `${this.#unshown.size} rows of its primary had not come here before it was promoted`);
        this.#unshown.clear();
      }
      return;
    }
    const { fork } = fate.is === 'forked' ? fate : { fork: undefined };
    if (fork !== undefined && position.lsn <= fork) {
      // The position holds. Of what was handed on after it some may be lost, and its ids given out again.
      const doubtful = ledger.forgetAfter(fork);
      this.#unshown.clear();
      if (this.#open) this.#open = { ...this.#open, skip: ledger.handedOn() };
      if (doubtful > 0) this.#warn(now, position, `the last ${doubtful} rows handed on may be among what it lacks`);
      return;
    }
    this.#open = undefined;
    this.#unshown.clear();
    if (fate.is === 'other') {
      this.#warn(now, position, 'it is another database cluster: reading its table from the start');
      this.#ledger = new Ledger({ ...now, snapshot: FIRST_SNAPSHOT, lsn: 0n });
      return;
    }
    const safe = this.#history.before(position.server.timeline, fork) ?? position;
    const age = Math.round((performance.now() - safe.takenAt) / 1000);
    this.#warn(now, position, `it may lack what the old one committed last: reading again from ${age} s ago`);
    // From here on this server's log counts, however far the old one's had come.
    this.#ledger = new Ledger({ ...safe, server: now.server, lsn: 0n });
  }

  #warn(now: Position, then: Position, reason: string): void {
    this.#options.logger.warn('The server has changed, reading again from a safe point: some rows may come twice', {
      table: this.#options.log.table,
      reason,
      timeline: now.server.timeline,
      timeline_before: then.server.timeline,
    });
  }
}
