/** One membership of a group, from joining to leaving or losing it: its lanes, their rows, its checkpoints. */
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { backoff, NoAnswerError, type Query } from '@pg-signals/db';
import type { Pool } from 'pg';
import { readRows } from '../listen/committedRows.ts';
import type { FeedRow } from '../listen/feedTable.ts';
import type { Deliver } from '../listen/reading.ts';
import { OtherServerError, type Server, type Snapshot } from '../listen/snapshot.ts';
import { quota } from './assignment.ts';
import { type BatchHandler, BatchHandling } from './batchHandling.ts';
import { BatchTransactions } from './batchTransactions.ts';
import { Checkpoints, unstoredMax } from './checkpoints.ts';
import { EachHandling, type Handler, type Handling, toError, type Work } from './handling.ts';
import type { UnfinishedRow } from './laneCursor.ts';
import { LaneReading } from './laneReading.ts';
import { Lanes } from './lanes.ts';
import { LostMembershipError, type Membership, type Position, StandbyError } from './membership.ts';
import type { MemberOptions } from './options.ts';
import { type DueRow, Retries, type RunOutcome } from './retries.ts';
import type { StoredCursor } from './storedCursor.ts';

/** After a look at the group that failed. */
const LOOK_AGAIN_MS = 1_000;
/** Between two looks: anyone may notify, as often as they like. */
const LOOK_PAUSE_MS = 50;

export type AnyHandler<Row> = Handler<Row> | { handleBatch: BatchHandler<Row> };

export interface MemberContext<Row extends FeedRow> {
  pool: Pool;
  query: Query;
  options: MemberOptions<Row>;
  membership: Membership;
  /** When the membership was asked for, by `performance.now()`. */
  joinedAt: number;
  handler: AnyHandler<Row>;
  readTimeoutMs: number;
  deliver: Deliver;
  /** Has the feed read the table again. */
  readAgain: () => void;
  /** Asks the listening connection for a proof. */
  prove: () => void;
}

export class Member<Row extends FeedRow> {
  readonly reading: LaneReading;
  readonly handling: Handling<Row>;
  /** Where its cursors stood when it was over; empty where that means nothing any more. */
  stoodAt: readonly StoredCursor[] = [];
  readonly #context: MemberContext<Row>;
  readonly #retries: Retries<Row>;
  readonly #checkpoints: Checkpoints;
  /** By lane: under which epoch it was taken. */
  readonly #epochs: number[] = [];
  /** The server of the lanes' snapshots; undefined before the first. */
  #server: Server | undefined;
  #isOver = false;
  readonly #lost = Promise.withResolvers<never>();
  #wake = () => {};
  /** When the group was looked at last, and is to be looked at next. */
  #lookedAt = Number.NEGATIVE_INFINITY;
  #lookAt = 0;
  #giving: Promise<void> | undefined;
  #isLeaving = false;
  /** A row that `reading` has let through, and that is not begun before the lease is renewed. */
  #late: UnfinishedRow | undefined;
  #progress = Promise.withResolvers<void>();
  /** A checkpoint is due: the event loop gets a turn. */
  #isTurnOver = false;

  constructor(context: MemberContext<Row>) {
    const { options, membership, query, pool, handler, deliver, readTimeoutMs, joinedAt, prove } = context;
    const { lanes, order, concurrency, timeoutMs, retries, checkpointRows, leaseMs, checkpointMs, flush } = options;
    this.#context = context;
    this.#lost.promise.catch(() => {});
    this.reading = new LaneReading({
      query,
      table: options.feed,
      readTimeoutMs,
      deliver,
      lanes: new Lanes(lanes, order),
      suspectRows: retries > 0 ? unstoredMax(checkpointRows) + concurrency : 0,
      checkServer: (to) => this.#checkServer(to),
      onProgress: () => this.#onProgress(),
    });
    this.#checkpoints = new Checkpoints({
      membership,
      joinedAt,
      leaseMs,
      everyMs: checkpointMs,
      everyRows: checkpointRows,
      flush,
      position: (besides) => this.#position(besides),
      onRestarted: () => this.reading.forgetProved(),
      prove: (isAsked) => {
        if (!this.reading.isLevel) return undefined;
        if (isAsked) prove();
        return this.#progress.promise;
      },
      onDue: () => this.#wake(),
    });
    this.#retries = new Retries<Row>({
      query,
      logger: options.logger,
      group: { id: membership.groupId, name: membership.name },
      epoch: membership.epoch,
      retries,
      observer: {
        retried: () => options.observer.retried?.(),
        deadLetter: () => options.observer.deadLetter?.(),
      },
      // Where it is not known yet which server answers, no row can be read.
      lanes: () => (this.#server ? this.reading.lanes : []),
      storeAlong: (rows, work) => this.#checkpoints.storeAlong(rows, work),
      reserve: (wanted) => this.handling.reserve(wanted),
      read: (due) => this.#readRow(due),
      run: (due) => this.#runAgain(due),
      onFailed: (error) => {
        const isInVain = this.#isLeaving && this.#checkpoints.isLeaseOver;
        if (error instanceof LostMembershipError || isInVain) this.lose(error);
      },
    });
    const common = {
      isHeld: this.#retries.isHeld,
      defer: (work: Work<Row>, error: Error | undefined) => this.#defer(work, error),
      finished: () => this.#finished(),
    };
    if (typeof handler === 'function') {
      const handling = new EachHandling({
        ...common,
        handler,
        concurrency,
        timeoutMs,
        epochOf: (lane) => this.#epochs[lane] ?? membership.epoch,
        mayBegin: () => this.#mayBegin(() => handling.resume()),
      });
      this.handling = handling;
    } else {
      const { handleBatch } = handler;
      const onLost = (error: Error) => this.lose(error);
      const checkpoints = this.#checkpoints;
      const transactions = new BatchTransactions({ pool, membership, checkpoints, timeoutMs, handleBatch, onLost });
      this.handling = new BatchHandling({ ...common, transactions });
    }
  }

  /** Takes part until `signal` aborts and the lanes are given back; rejects when the membership is lost. */
  async run(signal: AbortSignal): Promise<void> {
    const stop = () => this.#wake();
    signal.addEventListener('abort', stop);
    try {
      while (!signal.aborted) {
        await this.#orLost(this.#step());
        if (signal.aborted) break;
        const woken = Promise.withResolvers<void>();
        this.#wake = woken.resolve;
        const inMs = Math.min(this.#checkpoints.storeAt, this.#lookAt) - performance.now();
        const timer = setTimeout(woken.resolve, Math.max(inMs, 0));
        await this.#orLost(woken.promise).finally(() => clearTimeout(timer));
      }
      await this.#orLost(this.#leave());
    } finally {
      signal.removeEventListener('abort', stop);
      this.lose(new Error('over'));
      await this.#retries.end();
      // What runs is over at its time limit. A row must not run twice at a time in one process.
      await this.handling.idle();
    }
  }

  /** Nothing more is begun, and nothing changes in the database any more. */
  lose(reason: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.stoodAt = this.#position(undefined, 'durable').cursors;
    this.#checkpoints.end(); // at once: no checkpoint may find the lanes gone
    this.reading.clear();
    this.handling.cancel();
    this.#lost.reject(reason);
  }

  /** Lanes may have come free, or rows are to be run again. */
  look(): void {
    this.#lookAt = Math.min(this.#lookAt, this.#lookedAt + LOOK_PAUSE_MS);
    this.#wake();
  }

  /** To be called with a row that `reading` has let through. */
  deliver(row: Row): Promise<void> | undefined {
    if (this.#checkpoints.isLeaseOver) return this.#deliverLate(row);
    const busy = this.handling.take(row, this.reading.arrival);
    if (this.#checkpoints.isFull) return this.#checkpoints.whenFree().then(() => busy);
    if (busy !== undefined || !this.#isTurnOver) return busy;
    this.#isTurnOver = false;
    return nextTurn(); // so that a checkpoint that is due gets on its way
  }

  /** A process that was frozen may have lost its lanes: it begins nothing before it knows. */
  async #deliverLate(row: Row): Promise<void> {
    const { arrival } = this.reading;
    const late = { id: row.id, xid: arrival.xid, lane: arrival.lane };
    this.#late = late;
    const isFree = await this.#checkpoints.whenFree();
    if (this.#late !== late) return; // its lane was released
    this.#late = undefined;
    if (isFree) await this.handling.take(row, arrival);
  }

  /** What was delivered, and is not handled. */
  get #unfinished(): readonly UnfinishedRow[] {
    return this.#late ? [...this.handling.unfinished, this.#late] : this.handling.unfinished;
  }

  get #log() {
    const { options, membership } = this.#context;
    return { logger: options.logger, named: { [options.words.label]: membership.name } };
  }

  #orLost<T>(work: Promise<T>): Promise<T> {
    return Promise.race([work, this.#lost.promise]);
  }

  // --- lanes ------------------------------------------------------------------------------------------------------------

  async #step(): Promise<void> {
    if (performance.now() >= this.#lookAt) await this.#share();
    if (performance.now() >= this.#checkpoints.storeAt) await this.#store();
  }

  async #store(): Promise<void> {
    await this.#checkpoints.store().catch(async (error: Error) => {
      if (error instanceof LostMembershipError) throw error;
      const { logger, named } = this.#log;
      const delay = backoff(3);
      logger.warn('A checkpoint was not stored, trying again', { ...named, reason: error.message, delay_ms: delay });
      await sleep(delay);
    });
  }

  /** Takes the lanes that are this member's share, or gives back those that are not. */
  async #share(): Promise<void> {
    const { membership, options } = this.#context;
    this.#lookedAt = performance.now();
    this.#lookAt = this.#lookedAt + options.leaseMs; // a notification may be lost
    this.#retries.look();
    const view = await membership.look().catch((error: Error) => this.#lookAgain(error));
    if (!view) return;
    const { members, free } = view;
    const others = members.filter(({ epoch }) => epoch !== membership.epoch);
    const alive = others.filter(({ leaseMs }) => leaseMs > 0);
    const leaseMs = Math.min(...others.map(({ leaseMs }) => Math.max(leaseMs, 250) + 20));
    this.#lookAt = Math.min(this.#lookAt, performance.now() + leaseMs);
    const share = quota(options.lanes, [membership.epoch, ...alive.map(({ epoch }) => epoch)], membership.epoch);
    const owned = this.reading.lanes.length;
    if (owned > share) this.#giving ??= this.#give(owned - share);
    else if (owned < share && (free > 0 || alive.length < others.length)) await this.#take();
  }

  #lookAgain(error: Error): undefined {
    if (error instanceof LostMembershipError) throw error;
    const { logger, named } = this.#log;
    const fields = { ...named, reason: error.message, delay_ms: LOOK_AGAIN_MS };
    logger.warn('The group could not be looked at, trying again', fields);
    this.#lookAt = performance.now() + LOOK_AGAIN_MS;
  }

  async #take(): Promise<void> {
    const { membership, options, readAgain } = this.#context;
    // All of it in one write: a checkpoint between the database's part and ours would be one without these lanes.
    const taken = await this.#checkpoints.write(async () => {
      const took = await membership.take().catch((error: Error) => {
        if (error instanceof NoAnswerError) throw error; // it is unknown which lanes are ours
        return this.#lookAgain(error);
      });
      const lanes = took?.cursors.flatMap((cursor) => cursor.lanes) ?? [];
      if (!took || lanes.length === 0) return 0;
      await this.#retries.load(lanes);
      if (this.#isOver) return 0;
      for (const lane of lanes) this.#epochs[lane] = took.epoch;
      this.reading.acquire(took.cursors);
      return lanes.length;
    });
    if (taken === 0) return;
    this.#retries.look();
    readAgain();
    this.#reportLanes(options.words.taken, { taken, epoch: membership.epoch });
    options.observer.lanes?.(this.reading.lanes.length);
  }

  async #give(count: number): Promise<void> {
    const { membership, options } = this.#context;
    try {
      await this.#release(new Set(this.reading.lanes.sort((a, b) => a - b).slice(-count)));
      await this.#untilAnswered(async () => {
        const { kept, released } = this.reading.stored(this.#unfinished);
        await options.flush?.();
        await membership.give(kept, released).catch((error: Error) => {
          if (error instanceof NoAnswerError) this.lose(error); // it is unknown whose they are
          throw error;
        });
        this.reading.forgetReleased();
      });
      this.#reportLanes('Lanes given', { given: count, epoch: membership.epoch });
      options.observer.lanes?.(this.reading.lanes.length);
    } catch (error) {
      this.lose(toError(error));
    } finally {
      this.#giving = undefined;
    }
  }

  /** Nothing more of these lanes is begun. Resolves when what was begun is finished. */
  async #release(lanes: ReadonlySet<number>): Promise<void> {
    const unbegun: UnfinishedRow[] = this.handling.drop(lanes);
    if (this.#late && lanes.has(this.#late.lane)) {
      unbegun.push(this.#late);
      this.#late = undefined;
    }
    this.reading.release(lanes, unbegun);
    await this.handling.finished(lanes);
    await this.#retries.finished(lanes);
  }

  async #leave(): Promise<void> {
    const { membership, options } = this.#context;
    this.#isLeaving = true;
    await this.#withLease(async () => {
      await this.#giving;
      await this.#release(new Set(this.reading.lanes));
    });
    await this.#untilAnswered(async () => {
      const { kept, released } = this.reading.stored(this.#unfinished);
      await options.flush?.();
      await membership.leave([...kept, ...released]);
    });
    this.#reportLanes(options.words.left, { epoch: membership.epoch });
    options.observer.lanes?.(0);
  }

  /** Renews the lease while what was begun comes to its end. */
  async #withLease(work: () => Promise<void>): Promise<void> {
    const done = new AbortController();
    const worked = work().finally(() => done.abort());
    worked.catch(() => {}); // thrown below
    while (!done.signal.aborted) {
      const inMs = Math.max(this.#checkpoints.storeAt - performance.now(), 0);
      const isDue = await sleep(inMs, true, { signal: done.signal }).catch(() => false);
      if (isDue) await this.#store();
    }
    await worked;
  }

  /** Gives lanes back; once more where that failed, as long as the lease holds. */
  async #untilAnswered(move: () => Promise<void>): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#checkpoints.write(move);
      } catch (error) {
        if (error instanceof LostMembershipError || this.#isOver || this.#checkpoints.isLeaseOver) throw error;
        const { logger, named } = this.#log;
        const fields = {
          ...named,
          reason: (error as Error).message,
          delay_ms: backoff(Math.min(attempt, 3)),
          attempt: attempt + 1,
        };
        logger.warn('Lanes were not given back, trying again', fields);
        await sleep(fields.delay_ms);
      }
    }
  }

  #reportLanes(message: string, fields: Record<string, unknown>): void {
    const { logger, named } = this.#log;
    logger.info(message, { ...named, ...fields, lanes: this.reading.lanes.length });
  }

  /** What this process remembers of the lanes holds on a server that has all that was stored, and on its timeline alone. */
  async #checkServer(to: Snapshot): Promise<void> {
    if (to.server.standby) throw new StandbyError();
    const { membership } = this.#context;
    const { systemIdentifier, timeline, startedAt } = to.server;
    const known = this.#server;
    if (known && (known.systemIdentifier !== systemIdentifier || known.timeline !== timeline)) {
      this.reading.clear(); // where it stood means nothing there
      this.lose(new LostMembershipError('another server has taken over'));
      return;
    }
    if (membership.startedAt !== startedAt || !membership.isBackendStored) {
      await this.#checkpoints.store(); // where it lacks a checkpoint, the membership is lost
      if (membership.startedAt !== startedAt) {
        throw new OtherServerError('the connections of the pool lead to different servers');
      }
      this.look(); // what was notified before this connection listened has not come
    }
    this.#server = to.server;
    if (!known) this.#retries.look();
    this.look(); // what was notified before this connection listened, or where none does, has not come
  }

  // --- rows -------------------------------------------------------------------------------------------------------------

  #position(besides?: ReadonlySet<number>, from: 'durable' | 'proved' = 'proved'): Position {
    const all = this.#unfinished;
    const unfinished = besides ? all.filter(({ id }) => !besides.has(id)) : all;
    const { kept, released, startedAt } = this.reading.stored(unfinished, from);
    return { cursors: [...kept, ...released], inFlight: unfinished.length, startedAt };
  }

  /** A process that was frozen may have lost its lanes, and what is handled beyond a checkpoint has its bound. */
  #mayBegin(resume: () => void): boolean {
    if (!this.#checkpoints.isLeaseOver && !this.#checkpoints.isFull) return true;
    void this.#checkpoints.whenFree().then(resume);
    return false;
  }

  #finished(): void {
    this.#context.options.observer.handled?.(1);
    if (this.#checkpoints.count()) this.#isTurnOver = true;
  }

  #onProgress(): void {
    this.#progress.resolve();
    this.#progress = Promise.withResolvers();
  }

  #defer(work: Work<Row>, error: Error | undefined): Promise<void> {
    const { logger, named } = this.#log;
    if (error) logger.warn('Handler failed, trying again later', { ...named, id: work.id, reason: error.message });
    return this.#retries.keep(work, error);
  }

  /** Undefined where the membership has ended. */
  async #runAgain(due: DueRow): Promise<RunOutcome | undefined> {
    const { logger, named } = this.#log;
    while (!this.#isOver) {
      try {
        const payload = await this.#readRow(due);
        const error = payload === undefined ? undefined : await this.#handleAgain(due, payload);
        return this.#isOver ? undefined : { payload, error };
      } catch (error) {
        const fields = { ...named, id: due.id, reason: (error as Error).message, delay_ms: 1_000 };
        logger.warn('A row that is due could not be read, trying again', fields);
        await sleep(fields.delay_ms);
      }
    }
    return undefined;
  }

  async #handleAgain(due: DueRow, payload: string): Promise<Error | undefined> {
    let row: Row;
    try {
      row = this.#context.options.feed.parse(payload) as Row;
    } catch (error) {
      return toError(error);
    }
    // A process that was frozen may have lost its lanes since it claimed the row.
    if (this.#checkpoints.isLeaseOver) await this.#checkpoints.whenFree();
    return this.handling.again({ ...due, row, suspect: false });
  }

  /** As JSON; undefined, and logged, where the row was deleted. */
  async #readRow({ id, xid }: DueRow): Promise<string | undefined> {
    const { query, options } = this.#context;
    const { feed: table, proofTimeoutMs: timeoutMs, maxRowBytes } = options;
    const { logger, named } = this.#log;
    const server = this.#server;
    if (!server) throw new OtherServerError('it is not known yet which server answers');
    const wanted = [{ id, xid: String(xid) }];
    const [whole] = await readRows({ query, table, server, timeoutMs }, wanted, maxRowBytes);
    if (whole?.payload === undefined) {
      logger.warn('A row that was to be run again is gone, or too large', { ...named, id });
    }
    return whole?.payload;
  }
}
