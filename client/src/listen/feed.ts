/** A feed is one table that is followed: notifications and table joined into one stream, every committed row once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff } from '@pg-signals/db';
import { BoundedBuffer } from './buffer.ts';
import type { Connection, ListeningConnection } from './connection.ts';
import type { FeedRow } from './feedTable.ts';
import { type PayloadObserver, Payloads, type PayloadsOptions } from './payloads.ts';
import type { Marker } from './proof.ts';
import type { Deliver, Reading, RowSource } from './reading.ts';
import { OtherServerError, requireServer, type Snapshot, takeDurableSnapshot } from './snapshot.ts';
import { TimeSlice } from './timeSlice.ts';

/** Where a row came from. */
export type Source = RowSource<never>['name'];

/** Calls the callbacks. */
export interface RowDispatcher<Row> {
  /** Returns a promise when the caller must wait before the next row. */
  deliver(row: Row): Promise<void> | undefined;
  /** Resolves when no callback is at work. */
  idle(): Promise<void>;
}

/** Is called with what a feed does; for metrics. */
export interface FeedObserver extends PayloadObserver {
  delivered(source: Source, rows: number): void;
  /** A row came a second time and was dropped. */
  duplicate(): void;
  /** True when the callbacks do not keep up and the table is read instead, false when they are level again. */
  behind(now: boolean): void;
  /** The table could not be read: it is read again later. */
  readFailed(error: Error): void;
  /** The server is not the one that the cursor was taken on: some rows may come twice. */
  serverChanged(): void;
  /** From before a marker was sent until all that came before it was delivered, in ms. */
  latency(ms: number): void;
}

export interface FeedOptions<Row extends FeedRow> extends PayloadsOptions<Row> {
  dispatcher: RowDispatcher<Row>;
  /** Makes what reads the table for this feed, and delivers through it. */
  reading: (deliver: Deliver) => Reading;
  observer: FeedObserver;
  /** Notifications that wait at most. */
  bufferMax: number;
  /** A proof is asked for after so many notifications, or `PROOF_CHARACTERS` of them. */
  proofEvery: number;
  pollMs: number;
}

/** Payloads are kept until a proof covers them: this bounds their memory, at 8,000 bytes each. */
const PROOF_CHARACTERS = 8 * 2 ** 20;

/**
 * - `catching up`: what is notified waits in the buffer, while the table is read up to a snapshot taken after LISTEN. Each
 *   connection begins so.
 * - `live`: what is notified is delivered, except what that snapshot covers: it was read.
 * - `overflowed`: the buffer was full, or given up. What is notified is dropped, until there is a new snapshot to catch up to.
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
  readonly #reading: Reading;
  readonly #payloads: Payloads<Row>;
  #mode: Mode = 'catching up';
  /** It has overflowed since it was live last. */
  #behind = false;
  /** The snapshot to catch up to before going live; undefined when a new one is to be taken. */
  #target: Snapshot | undefined;
  #provedAt: number | undefined;
  #following: Promise<void> = Promise.resolve();
  #wake = () => {};
  #connection: ListeningConnection | undefined;
  /** Since the last proof was asked for. */
  #unproved = { rows: 0, characters: 0 };

  constructor(options: FeedOptions<Row>) {
    this.#options = options;
    this.#buffer = new BoundedBuffer(options.bufferMax);
    this.#payloads = new Payloads(options);
    this.#reading = options.reading((source, ended) => this.#deliver(source, ended));
  }

  /** Everything committed longer ago than this, in ms, has been received; undefined before the first proof. */
  get proofAgeMs(): number | undefined {
    return this.#provedAt === undefined ? undefined : performance.now() - this.#provedAt;
  }

  /** Reads the table once more, up to a snapshot that is taken after this call, before it goes on live. */
  readAgain(): void {
    if (this.#mode === 'polling') return; // the next read is as good
    this.#setMode('overflowed');
    this.#wake();
  }

  /** Resolves when the last connection has ended and no callback is at work. */
  async idle(): Promise<void> {
    await this.#following;
    await this.#options.dispatcher.idle();
  }

  /**
   * Every mode but `live` begins with an empty buffer: what waits there is in the table, and the next snapshot covers it.
   * `live` keeps what came while catching up.
   */
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

  /** Counted when they come, not when they are delivered: so there is a marker among those that wait, however many they are. */
  #countToProof(payload: string): void {
    this.#unproved.characters += payload.length;
    if (++this.#unproved.rows < this.#options.proofEvery && this.#unproved.characters < PROOF_CHARACTERS) return;
    this.#unproved = { rows: 0, characters: 0 };
    this.#connection?.prove().catch(() => {}); // a failed proof ends the connection
  }

  #keep(item: string | Marker): void {
    if (this.#mode === 'overflowed' || this.#mode === 'polling') return;
    if (typeof item === 'string') this.#countToProof(item);
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

  /**
   * Delivers rows until the connection ends; what fails is logged and tried again. A callback that is still at work for the
   * connection before holds up this feed and no other.
   */
  follow(connection: Connection): void {
    const { ended } = connection;
    this.#connection = connection.mode === 'listening' ? connection : undefined;
    if (connection.mode === 'listening') this.#reading.begin(connection.snapshot);
    ended.addEventListener(
      'abort',
      () => {
        this.#setMode('catching up');
        this.#wake();
      },
      { once: true },
    );
    this.#following = this.#following.then(() => this.#follow(connection));
  }

  async #follow(connection: Connection): Promise<void> {
    const { ended } = connection;
    this.#target = undefined;
    for (let failures = 0; !ended.aborted; ) {
      try {
        if (connection.mode === 'listening') await this.#listen(connection);
        else await this.#poll(ended);
        failures = 0;
      } catch (error) {
        if (ended.aborted) break;
        this.#target = undefined; // what was taken out of the buffer and not delivered is in the table
        if (!(error instanceof OtherServerError) || failures === 0) failures++;
        const { logger, observer, table } = this.#options;
        observer.readFailed(error as Error);
        const fields = { reason: (error as Error).message, delay_ms: backoff(failures), attempt: failures + 1 };
        logger.warn('Reading the table failed, reading again', { table: table.table, ...fields });
        await sleep(fields.delay_ms, undefined, { signal: ended }).catch(() => {});
      }
    }
  }

  /** Catches up and goes live, until the connection ends or the buffer overflows. */
  async #listen(connection: ListeningConnection): Promise<void> {
    const { ended } = connection;
    if (this.#mode === 'overflowed' || !this.#target) {
      this.#setMode('catching up');
      const target = await takeDurableSnapshot(this.#options.query);
      requireServer(connection.snapshot.server, target.server.startedAt);
      this.#target = target;
    }
    const to = this.#target;
    const done = await this.#reading.readTo(to, ended);
    if (!done || ended.aborted || this.#mode === 'overflowed') return;
    this.#setMode('live');
    this.#provedAt = to.takenAt;
    if (this.#behind) this.#reportLevel();
    const notifications = this.#notifications(to);
    while (!ended.aborted && this.#mode === 'live') {
      await this.#deliver(notifications, ended);
      const woken = Promise.withResolvers<void>();
      this.#wake = woken.resolve;
      if (this.#buffer.length === 0 && this.#mode === 'live' && !ended.aborted) await woken.promise;
    }
  }

  #reportLevel(): void {
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
      if (!(await this.#reading.readTo(to, ended))) return;
      if (first) logger.info('Reading the table', { table: table.table, every_ms: pollMs });
      this.#provedAt = to.takenAt;
      await sleep(pollMs, undefined, { signal: ended }).catch(() => {});
    }
  }

  // --- delivery --------------------------------------------------------------------------------------------------------

  /** What is notified. A row says by its transaction whether the table was read up to it. */
  #notifications(readTo: Snapshot): RowSource<string | Marker> {
    const reading = this.#reading;
    return {
      name: 'notify',
      server: readTo.server,
      next: () => this.#buffer.shift(),
      waiting: () => this.#buffer.waiting(),
      mayBeWanted: (payload) => reading.mayBeWanted(payload as string),
      isWanted: (row) => reading.isWanted(row),
      isDuplicate: (xid) => reading.wasRead(xid),
      record: (xid, id, payload) => reading.record(xid, id, payload),
    };
  }

  /** The loop that delivers, notified rows as well as those read from the table. */
  async #deliver(source: RowSource<string | Marker>, ended: AbortSignal): Promise<void> {
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
      if (source.mayBeWanted && !source.mayBeWanted(item)) continue;
      let row = this.#payloads.parse(item);
      if (row === undefined) continue;
      const { xid } = this.#payloads;
      if (source.isDuplicate(xid, row.id, item)) {
        observer.duplicate();
        continue;
      }
      if ('truncated' in row) {
        row = await this.#payloads.whole(row, source.waiting(), source.server);
        if (ended.aborted) break; // the next connection reads it
        if (row === undefined) continue;
      }
      if (source.isWanted && !source.isWanted(row)) continue;
      source.record(xid, row.id, item);
      const busy = dispatcher.deliver(row as Row);
      rows++;
      if (busy) await busy;
      if (slice.isOver()) {
        report();
        await slice.next();
      }
    }
    report();
  }

  #markerDelivered(marker: Marker, ended: AbortSignal): void {
    this.#options.observer.latency(performance.now() - marker.sentAt);
    marker.snapshot.then(
      (snapshot) => ended.aborted || this.#reading.prove(snapshot),
      () => {}, // the connection ends
    );
  }
}
