/** Brings a consumer level with the table: reads what was committed since its position, once, however often it breaks off. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '@pg-signals/runtime';
import { FIRST_PAGE, type Page, type ReadCursor, readPage, readStandbyPage } from './committedRows.ts';
import type { Query } from './database.ts';
import { Ledger } from './ledger.ts';
import type { LogRow, LogTable } from './logTable.ts';
import { bounds, isDurable, type Position, takePosition } from './position.ts';
import { judge, PositionHistory } from './trust.ts';

/** Longest wait for the server's log to reach the disk; wal_writer_delay is 200 ms by default. */
const DURABLE_WAIT_MS = 2_000;

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
    let now = await takePosition(this.#options.query);
    if (!this.#ledger) {
      this.begin(now);
      return { position: now, rows: 0 };
    }
    await this.#checkTrust(now);
    if (now.server.standby) return this.#readStandby(now, ended);
    if (!this.#open) {
      // What lies before a durable position stays as it is, whatever crashes: so a read up to it may be resumed in its middle.
      const deadline = performance.now() + DURABLE_WAIT_MS;
      while (!isDurable(now) && performance.now() < deadline && !ended.aborted) {
        await sleep(20);
        now = { ...now, flushedLsn: (await takePosition(this.#options.query)).flushedLsn };
      }
      const { position: from } = this.#ledger;
      this.#open = { from, to: now, skip: this.#ledger.handedOn(), cursor: FIRST_PAGE, ofPage: new Set() };
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
    const skip = ledger.handedOn();
    const { xmin } = bounds(now.snapshot);
    const unsettled: number[] = [];
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
      for (const [, xid, id] of rows) if (BigInt(xid) >= xmin) unsettled.push(Number(id));
      count += rows.length;
      cursor = next;
    } while (cursor);
    // The new position stands for all that was handed on when everything that ran at the old one is over.
    if (xmin >= bounds(ledger.position.snapshot).xmax) {
      this.#ledger = new Ledger({ ...now, snapshot: `${xmin}:${xmin}:` }, unsettled);
      this.#history.add(this.#ledger.position);
    }
    return { position: now, rows: count };
  }

  async #checkTrust(now: Position): Promise<void> {
    const { query, log, logger } = this.#options;
    const { resumeFrom, distrust } = await judge(query, this.#open?.to ?? this.#ledger!.position, now, this.#history);
    if (distrust === undefined) return;
    logger.warn('The server has changed, reading again from a safe point: some rows may come twice', {
      table: log.table,
      reason: distrust,
    });
    this.#open = undefined;
    this.#ledger = new Ledger(resumeFrom);
  }
}
