/** Joins notifications and table into one stream: every committed row, once, whatever happens in between. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, type Query } from '@pg-signals/db';
import type { Logger } from '../logger.ts';
import { BoundedBuffer } from './buffer.ts';
import { CatchUp, type RowSource } from './catchUp.ts';
import type { Connection, ListeningConnection } from './connection.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { FeedRow, FeedTable, TruncatedRow } from './feedTable.ts';
import type { Marker } from './proof.ts';
import { type Snapshot, takeDurableSnapshot } from './snapshot.ts';
import { TimeSlice } from './timeSlice.ts';
import { TruncatedRows } from './truncatedRows.ts';

/** Where a row came from. */
export type Source = RowSource<never>['name'];

/** Is called with what a feed does; for metrics. */
export interface FeedObserver {
  delivered(source: Source, rows: number): void;
  /** A row came a second time and was dropped. */
  duplicate(): void;
  /** A notification was no row. */
  invalidPayload(): void;
  /** A row was deleted before it could be read. */
  rowMissing(): void;
  /** True when the callbacks do not keep up and the table is read instead, false when they are level again. */
  behind(now: boolean): void;
  /** The server is not the one that the cursor was taken on: some rows may come twice. */
  serverChanged(): void;
  /** From before a marker was sent until all that came before it was delivered, in ms. */
  latency(ms: number): void;
}

export interface FeedOptions<Row extends FeedRow> {
  table: FeedTable<Row>;
  query: Query;
  dispatcher: Dispatcher<Row>;
  logger: Logger;
  observer: FeedObserver;
  /** Notifications that wait at most. */
  bufferMax: number;
  /** A proof is asked for after so many rows. */
  proofEvery: number;
  pollMs: number;
  readTimeoutMs: number;
}

/**
 * - `catching up`: what is notified waits in the buffer, while the table is read up to a snapshot taken after LISTEN. Each
 *   connection begins so.
 * - `live`: what is notified is delivered, except what that snapshot covers: it was read.
 * - `overflowed`: the buffer was full. What is notified is dropped, until there is a new snapshot to catch up to.
 * - `polling`: notifications are unavailable, the table is read at intervals.
 *
 * ```
 *   ┌─▶ catching up ──▶ live ─┐       polling, until a connection listens
 *   │        └──▶ overflowed ◀┘
 *   └──────────────┘
 * ```
 */
type Mode = 'catching up' | 'live' | 'overflowed' | 'polling';

export class Feed<Row extends FeedRow> {
  readonly #options: FeedOptions<Row>;
  readonly #buffer: BoundedBuffer<string | Marker>;
  readonly #catchUp: CatchUp;
  readonly #truncatedRows: TruncatedRows<Row>;
  #mode: Mode = 'catching up';
  /** It has overflowed since it was live last. */
  #behind = false;
  /** The table was read up to here since the latest connection or overflow. */
  #readTo: Snapshot | undefined;
  #sinceProof = 0;
  #provedAt: number | undefined;
  #wake = () => {};

  constructor(options: FeedOptions<Row>) {
    const { bufferMax, query, table, logger, observer, readTimeoutMs } = options;
    this.#options = options;
    this.#buffer = new BoundedBuffer(bufferMax);
    this.#truncatedRows = new TruncatedRows(query, table, readTimeoutMs);
    this.#catchUp = new CatchUp({ query, table, logger, observer, readTimeoutMs, deliver: this.#deliver });
  }

  /** All that was committed longer ago than this, in ms, has come; undefined before the first proof. */
  get proofAgeMs(): number | undefined {
    return this.#provedAt === undefined ? undefined : performance.now() - this.#provedAt;
  }

  /** Resolves when no callback is at work. */
  idle(): Promise<void> {
    return this.#options.dispatcher.idle();
  }

  /** Whatever waits in the buffer when a mode begins is in the table too; only what came while catching up is still due. */
  #setMode(mode: Mode): void {
    this.#mode = mode;
    if (mode !== 'live') this.#buffer.clear();
  }

  // --- what comes on the connection ------------------------------------------------------------------------------------

  /** For each payload notified on the table's channel. */
  receive = (payload: string): void => this.#keep(payload);

  /** For each marker that comes back, at its place among the payloads. */
  mark(marker: Marker): void {
    if (this.#mode === 'live') {
      marker.snapshot.then(
        ({ takenAt }) => {
          this.#provedAt = takenAt;
        },
        () => {}, // the connection ends
      );
    }
    this.#keep(marker);
  }

  #keep(item: string | Marker): void {
    if (this.#mode === 'overflowed' || this.#mode === 'polling') return;
    // The loop sleeps only when the buffer is empty: waking it for each row would cost more than delivering the row.
    if (!this.#buffer.push(item)) this.#overflow();
    else if (this.#buffer.length === 1) this.#wake();
  }

  #overflow(): void {
    this.#setMode('overflowed');
    if (this.#behind) return;
    this.#behind = true;
    const { logger, observer, table, bufferMax } = this.#options;
    observer.behind(true);
    logger.warn('Callbacks do not keep up, reading from the table until level again', {
      table: table.table,
      waiting: bufferMax,
    });
  }

  // --- following a connection ------------------------------------------------------------------------------------------

  /** Delivers rows until the connection ends. Never rejects: what fails is logged and tried again. */
  async follow(connection: Connection): Promise<void> {
    const { ended } = connection;
    const wake = () => this.#wake();
    ended.addEventListener('abort', wake);
    if (connection.mode === 'listening') {
      this.#catchUp.begin(connection.snapshot);
      this.#readTo = connection.snapshot;
    }
    for (let attempt = 1; !ended.aborted; attempt++) {
      try {
        if (connection.mode === 'listening') await this.#listen(connection);
        else await this.#poll(ended);
        attempt = 0;
      } catch (error) {
        if (!ended.aborted) await this.#retryLater(error as Error, Math.max(attempt, 1), ended);
      }
    }
    ended.removeEventListener('abort', wake);
    this.#setMode('catching up');
  }

  /** Catches up and goes live, until the connection ends or the buffer overflows. */
  async #listen(connection: ListeningConnection): Promise<void> {
    const { ended } = connection;
    if (this.#mode === 'overflowed' || !this.#readTo) {
      this.#setMode('catching up');
      this.#readTo = undefined; // where the snapshot fails, the next attempt begins here
      this.#readTo = await takeDurableSnapshot(this.#options.query);
    }
    const to = this.#readTo;
    const level = await this.#catchUp.readTo(to, ended);
    if (!level || this.#mode === 'overflowed') return;
    this.#setMode('live');
    this.#provedAt = to.takenAt;
    if (this.#behind) this.#level();
    const notifications = this.#notifications(to, connection);
    while (!ended.aborted && this.#mode === 'live') {
      await this.#deliver(notifications, ended);
      const woken = Promise.withResolvers<void>();
      this.#wake = woken.resolve;
      if (this.#buffer.length === 0 && this.#mode === 'live' && !ended.aborted) await woken.promise;
    }
  }

  #level(): void {
    this.#behind = false;
    const { logger, observer, table } = this.#options;
    observer.behind(false);
    logger.info('Level with the table again, back to notifications', { table: table.table });
  }

  async #poll(ended: AbortSignal): Promise<void> {
    const { logger, query, table, pollMs } = this.#options;
    this.#setMode('polling');
    for (let first = true; !ended.aborted; first = false) {
      const to = await takeDurableSnapshot(query);
      if (!(await this.#catchUp.readTo(to, ended))) return;
      if (first) logger.info('Reading the table', { table: table.table, every_ms: pollMs });
      this.#provedAt = to.takenAt;
      await sleep(pollMs, undefined, { signal: ended }).catch(() => {});
    }
  }

  async #retryLater(error: Error, attempt: number, ended: AbortSignal): Promise<void> {
    const { logger, table } = this.#options;
    const delay = backoff(attempt);
    logger.warn('Reading the table failed, reading again', {
      table: table.table,
      reason: error.message,
      delay_ms: delay,
      attempt: attempt + 1,
    });
    await sleep(delay, undefined, { signal: ended }).catch(() => {});
  }

  // --- delivery --------------------------------------------------------------------------------------------------------

  /** What is notified. A row says by its transaction whether the table was read up to it. */
  #notifications(readTo: Snapshot, connection: ListeningConnection): RowSource<string | Marker> {
    const { proofEvery } = this.#options;
    const cursor = this.#catchUp.cursor!;
    return {
      name: 'notify',
      next: () => this.#buffer.shift(),
      waiting: () => this.#buffer.waiting(),
      isDuplicate: ({ xid }) => readTo.covers(Number(xid)),
      record: (row) => {
        cursor.record(row);
        if (++this.#sinceProof < proofEvery) return;
        this.#sinceProof = 0;
        connection.prove().catch(() => {}); // a failed proof ends the connection
      },
    };
  }

  /** The loop that delivers, notified rows as well as those read from the table. */
  #deliver = async (source: RowSource<string | Marker>, ended: AbortSignal): Promise<void> => {
    const { dispatcher, observer } = this.#options;
    const slice = new TimeSlice();
    let rows = 0;
    const report = () => {
      observer.delivered(source.name, rows);
      rows = 0;
    };
    for (let item = source.next(); item !== undefined && !ended.aborted; item = source.next()) {
      if (typeof item !== 'string') {
        report();
        this.#markerDelivered(item, ended);
        continue;
      }
      let row = this.#parse(item);
      if (row === undefined) continue;
      if (source.isDuplicate(row)) {
        observer.duplicate();
        continue;
      }
      if ('truncated' in row) {
        row = await this.#whole(row, source.waiting());
        if (ended.aborted) break; // the next connection reads it
        if (row === undefined) continue;
      }
      source.record(row);
      const busy = dispatcher.deliver(row as Row);
      rows++;
      if (busy) await busy;
      if (slice.isOver()) {
        report();
        await slice.next();
      }
    }
    report();
  };

  #markerDelivered(marker: Marker, ended: AbortSignal): void {
    this.#options.observer.latency(performance.now() - marker.sentAt);
    marker.snapshot.then(
      (snapshot) => ended.aborted || this.#catchUp.prove(snapshot),
      () => {}, // the connection ends
    );
  }

  #parse(payload: string): Row | TruncatedRow | undefined {
    try {
      const row = this.#options.table.parse(payload);
      if (!Number.isSafeInteger(Number(row.xid))) throw new Error('expected "xid" to be a transaction number');
      return row;
    } catch (error) {
      const { observer, logger, table } = this.#options;
      observer.invalidPayload();
      logger.warn('A payload could not be read, skipping it', {
        channel: table.channel,
        reason: (error as Error).message,
        payload: payload.slice(0, 200),
      });
      return undefined;
    }
  }

  async #whole(row: TruncatedRow, waiting: Iterable<unknown>): Promise<Row | undefined> {
    const whole = await this.#truncatedRows.get(row, waiting);
    if (!whole) {
      const { logger, observer, table } = this.#options;
      observer.rowMissing();
      logger.warn('A row was deleted before it could be read, skipping it', { table: table.table, id: row.id });
    }
    return whole;
  }
}
