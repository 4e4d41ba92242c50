/** A consumer group: members share the signals of a table, each signal is handled by one of them, and none is lost between them. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { backoff, createQuery, NoAnswerError, type Query, type Signal } from '@pg-signals/db';
import type { Pool, PoolClient } from 'pg';
import { readRows } from '../listen/committedRows.ts';
import type { Feed } from '../listen/feed.ts';
import { type FeedRow, type FeedTable, signalsTable } from '../listen/feedTable.ts';
import { Listener, type ListenerObserver, type ListenerOptions } from '../listen/listener.ts';
import { OtherServerError, type Server, type Snapshot } from '../listen/snapshot.ts';
import { type Logger, silent } from '../logger.ts';
import { quota } from './assignment.ts';
import { type BatchHandler, BatchHandling, type Outcome } from './batchHandling.ts';
import { EachHandling, type Handler, type Handling, toError, type Work } from './handling.ts';
import { LaneReading } from './laneReading.ts';
import { Lanes } from './lanes.ts';
import { GROUPS_CHANNEL, GroupMismatchError, inTransaction, LostMembershipError, Membership } from './membership.ts';
import { type DueRow, Retries } from './retries.ts';

/** Is called with what a member does; for metrics. */
export interface GroupObserver extends ListenerObserver {
  /** Rows that the handler has finished, or that were kept for another run. */
  handled(rows: number): void;
  /** A row is run again. */
  retried(): void;
  /** A row was given up after its last attempt. */
  deadLetter(): void;
  /** The member owns so many lanes now. */
  lanes(count: number): void;
}

export interface GroupOptions<Row extends FeedRow = Signal> extends Omit<ListenerOptions, 'concurrency' | 'observer'> {
  /** Letters, digits and `_.:-`, 63 at most. */
  name: string;
  /** Where a new group begins: with what is committed from now on (default), or with the first row of the table. */
  from?: 'latest' | 'earliest';
  /** Into how many parts the work is divided, and so how many members can share it (64); fixed when the group is made. */
  lanes?: number;
  /** Rows of one key come one after another: a column, or a path into a JSON column such as `attributes.room`. */
  order?: string;
  /** Handlers that may run at a time in this member (1). */
  concurrency?: number;
  /** Time limit of a handler, in ms (30,000). */
  timeoutMs?: number;
  /** Runs of a row after its first, before it is a dead letter (5). */
  retries?: number;
  /** For how long a member that is not heard of keeps its lanes, in ms (10,000). */
  leaseMs?: number;
  /** Time between two checkpoints, in ms (1,000). */
  checkpointMs?: number;
  /** Handled rows between two checkpoints (1,000). */
  checkpointRows?: number;
  /** The table (`signals`). */
  feed?: FeedTable<Row>;
  observer?: Partial<GroupObserver>;
  /** Resolves when what the handlers did is safe: awaited before each checkpoint. For handlers that write with a delay. */
  flush?: () => Promise<unknown> | undefined;
}

/** Rows are handled beyond the last checkpoint up to so many times `checkpointRows`: then the handler waits for the next one. */
const UNSTORED_FACTOR = 4;
/** A lease is renewed so many times before it ends. */
const RENEWALS = 3;
/** A checkpoint waits for a proof so long at most, in ms: with one it is shorter. */
const PROOF_WAIT_MS = 100;

const DEFAULTS = {
  from: 'latest' as const,
  lanes: 64,
  concurrency: 1,
  timeoutMs: 30_000,
  retries: 5,
  leaseMs: 10_000,
  checkpointMs: 1_000,
  checkpointRows: 1_000,
  maxRowBytes: 16 * 2 ** 20,
  proofTimeoutMs: 5_000,
};

type ResolvedOptions<Row extends FeedRow> = GroupOptions<Row> &
  Required<
    Omit<
      GroupOptions<Row>,
      'order' | 'flush' | 'observer' | Exclude<keyof ListenerOptions, 'concurrency' | keyof typeof DEFAULTS>
    >
  > & {
    logger: Logger;
  };

/**
 * One member of a group. Each signal is handled by one member, at least once, and none is skipped, whatever happens to members,
 * connections or the server.
 *
 * - A member that ends in order hands its lanes over at once, and repeats nothing. From one that is killed the others take them
 *   when its lease is over; what it has handled since its last checkpoint comes again: what came in `checkpointMs` or
 *   `checkpointRows` rows, whichever is less, and while that checkpoint was on its way (4 times `checkpointRows` at most).
 * - A handler that throws, rejects or takes longer than `timeoutMs` is run again later, others meanwhile; after `retries` more
 *   runs the row is in the table `dead_letters`.
 * - Without `order`, rows are handled in about the order of their commits. With it, rows of one key are handled one after
 *   another, in the order in which `Listener` delivers them; one that fails holds up its key and no other.
 * - With `handleBatch` the handler's own writes and the checkpoint are one transaction: exactly once.
 */
export class Group<Row extends FeedRow = Signal> {
  readonly #options: ResolvedOptions<Row>;
  readonly #observer: Partial<GroupObserver>;
  readonly #pool: Pool;
  readonly #query: Query;
  readonly #lanes: Lanes;
  readonly #listener: Listener;
  readonly #feed: Feed<Row>;
  readonly #handling: Handling<Row>;
  #reading!: LaneReading;
  #membership: Membership | undefined;
  #retries: Retries<Row> | undefined;
  /** The server of the present membership; undefined until a snapshot shows it. */
  #server: Server | undefined;
  #leaseUntil = 0;
  #lose: (reason: Error) => void = () => {};
  /** Rows that were finished since the last checkpoint. */
  #unstored = 0;
  #stored = Promise.withResolvers<void>();
  #writing: Promise<unknown> = Promise.resolve();
  #wake = () => {};
  #isDue = false;
  #isLookDue = false;
  #giving = false;

  /** @throws {RangeError} for an option that can't be, or a pool of fewer than 3 connections. */
  constructor(pool: Pool, options: GroupOptions<Row>, handler: Handler<Row> | { handleBatch: BatchHandler<Row> }) {
    const { observer = {}, ...given } = options;
    const table = (options.feed ?? signalsTable) as FeedTable<Row>;
    this.#options = { ...DEFAULTS, logger: silent, feed: table, ...given };
    this.#check(pool);
    const { lanes, order, timeoutMs, concurrency, proofTimeoutMs } = this.#options;
    this.#observer = observer;
    this.#pool = pool;
    this.#query = createQuery(pool, proofTimeoutMs);
    this.#lanes = new Lanes(lanes, order);
    const {
      name,
      from,
      retries,
      leaseMs,
      checkpointMs,
      checkpointRows,
      feed,
      flush,
      concurrency: _,
      ...listenerOptions
    } = given;
    this.#listener = new Listener(pool, { ...listenerOptions, observer });
    const common = {
      isHeld: (key: string) => this.#retries?.isHeld(key) ?? false,
      defer: (work: Work<Row>, error: Error | undefined) => this.#defer(work, error),
      finished: () => this.#finished(),
    };
    this.#handling =
      typeof handler === 'function'
        ? new EachHandling({ ...common, handler, concurrency, timeoutMs, epoch: () => this.#membership?.epoch ?? 0 })
        : new BatchHandling({
            ...common,
            commit: (works) => this.#commit(handler.handleBatch, works),
            commitAgain: (work) => this.#commitAgain(handler.handleBatch, work),
          });
    this.#feed = this.#listener.attach(table, (shared) => ({
      dispatcher: { deliver: (row) => this.#deliver(row), idle: () => this.#handling.idle() },
      reading: (deliver) => {
        this.#reading = new LaneReading({
          ...shared,
          deliver,
          lanes: this.#lanes,
          suspectRows: this.#options.retries > 0 ? this.#unstoredMax + concurrency : 0,
          checkServer: (to) => this.#checkServer(to),
          onProgress: () => this.#onProgress(),
        });
        return this.#reading;
      },
    }));
    this.#listener.addListener(GROUPS_CHANNEL, (group) => {
      if (group === this.#options.name) this.#look();
    });
  }

  /** Everything committed longer ago than this, in ms, was delivered to this member, of its lanes; undefined before that. */
  get proofAgeMs(): number | undefined {
    return this.#membership && this.#reading.isLevel ? this.#listener.proofAgeMs : undefined;
  }

  /** Rows that are being handled, or wait for their turn. */
  get inFlight(): number {
    return this.#handling.unfinished.length;
  }

  /** How many lanes this member owns. */
  get laneCount(): number {
    return this.#reading.lanes.length;
  }

  /**
   * Takes part until `signal` aborts. Resolves when no handler runs any more, the last checkpoint is stored, and the lanes are the
   * others'. A lost connection, server or membership is made up for, forever.
   *
   * @throws {GroupMismatchError} where the group was made with another table, order or number of lanes.
   */
  async start(signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const listened = this.#listener.start(stop.signal);
    try {
      await this.#takePart(signal);
    } finally {
      stop.abort();
      await listened;
    }
  }

  // --- membership -------------------------------------------------------------------------------------------------------

  async #takePart(signal: AbortSignal): Promise<void> {
    const { name, logger, order, lanes, from, leaseMs, proofTimeoutMs: timeoutMs, feed } = this.#options;
    const member = `${hostname()}:${process.pid}:${randomBytes(3).toString('hex')}`;
    const identity = { name, feed: feed.table, lanes, order, from, leaseMs, member, timeoutMs };
    let replaced: number | undefined;
    for (let attempt = 1; !signal.aborted; attempt++) {
      const sentAt = performance.now();
      try {
        const membership = await Membership.join({ ...identity, pool: this.#pool, query: this.#query }, replaced);
        replaced = membership.epoch;
        this.#leaseUntil = sentAt + leaseMs;
        await this.#hold(membership, signal);
      } catch (error) {
        if (error instanceof GroupMismatchError) throw error;
        if (signal.aborted) return;
        if (performance.now() - sentAt > leaseMs) attempt = 0;
        const fields = {
          group: name,
          reason: (error as Error).message,
          delay_ms: backoff(attempt + 1),
          attempt: attempt + 1,
        };
        if ((error as { code?: string }).code === '25006')
          fields.reason = 'a group needs the primary, and this server is a standby';
        logger.warn(
          error instanceof LostMembershipError
            ? 'Lost its lanes, joining the group again'
            : 'Not in the group, joining again',
          fields,
        );
        await sleep(fields.delay_ms, undefined, { signal }).catch(() => {});
      }
    }
  }

  /** One membership, from its beginning to its end. Rejects when it is lost; resolves when `signal` aborts and it was left. */
  async #hold(membership: Membership, signal: AbortSignal): Promise<void> {
    const { leaseMs, checkpointMs } = this.#options;
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => {});
    let isOver = false;
    this.#lose = (reason) => {
      if (isOver) return;
      isOver = true;
      this.#reading.clear(); // nothing more is begun
      lost.reject(reason);
    };
    this.#membership = membership;
    this.#server = undefined;
    this.#unstored = 0;
    this.#giving = false;
    this.#retries = this.#newRetries(membership);
    const stop = () => this.#wake();
    signal.addEventListener('abort', stop);
    try {
      this.#isLookDue = true;
      let renewAt = performance.now() + leaseMs / RENEWALS;
      while (!signal.aborted) {
        if (this.#isLookDue) await Promise.race([this.#share(membership), lost.promise]);
        const woken = Promise.withResolvers<void>();
        this.#wake = woken.resolve;
        if (!signal.aborted && !this.#isLookDue && !this.#isDue) {
          const inMs = (this.#unstored > 0 ? Math.min(renewAt, this.#checkpointAt) : renewAt) - performance.now();
          const timer = setTimeout(woken.resolve, Math.max(inMs, 0));
          await Promise.race([woken.promise, lost.promise]).finally(() => clearTimeout(timer));
        }
        const now = performance.now();
        const isRenewal = now >= renewAt;
        if (this.#isDue || isRenewal || (this.#unstored > 0 && now >= this.#checkpointAt)) {
          await Promise.race([this.#checkpoint(), lost.promise]);
          this.#checkpointAt = performance.now() + checkpointMs;
          renewAt = performance.now() + leaseMs / RENEWALS;
        }
        if (isRenewal || now >= this.#lookAt) this.#isLookDue = true;
      }
      await Promise.race([this.#leave(membership), lost.promise]);
    } finally {
      signal.removeEventListener('abort', stop);
      isOver = true;
      this.#reading.clear();
      this.#handling.cancel();
      this.#membership = undefined;
      this.#stored.resolve();
      await this.#retries.end();
      this.#observer.lanes?.(0);
      // What runs is over at its time limit: a row of a key must not run here twice at a time.
      await this.#handling.idle();
    }
  }
  #checkpointAt = 0;
  #lookAt = Number.POSITIVE_INFINITY;

  #look(): void {
    this.#isLookDue = true;
    this.#retries?.look();
    this.#wake();
  }

  /** Takes the lanes that are this member's share, or gives back those that are not. */
  async #share(membership: Membership): Promise<void> {
    this.#isLookDue = false;
    const { lanes, name, logger } = this.#options;
    const { members, free } = await membership.look().catch((error) => this.#onFailure(error));
    const alive = members.filter((each) => each.leaseMs > 0 || each.epoch === membership.epoch);
    const others = members.filter(({ epoch }) => epoch !== membership.epoch);
    const share = quota(
      lanes,
      alive.map(({ epoch }) => epoch),
      membership.epoch,
    );
    const owned = this.#reading.lanes.length;
    this.#lookAt = performance.now() + Math.min(...others.map(({ leaseMs }) => Math.max(leaseMs, 250) + 20));
    if (owned > share) void this.#give(membership, owned - share);
    else if (owned < share && (free > 0 || alive.length < members.length)) {
      const taken = await this.#write(() => membership.take()).catch((error) => this.#onFailure(error));
      if (taken.length === 0) return;
      const numbers = taken.flatMap((cursor) => cursor.lanes);
      this.#reading.acquire(taken);
      void this.#retries!.load(numbers);
      this.#feed.readAgain();
      this.#observer.lanes?.(this.#reading.lanes.length);
      logger.info('Lanes taken', {
        group: name,
        epoch: membership.epoch,
        taken: numbers.length,
        lanes: owned + numbers.length,
      });
    }
  }

  async #give(membership: Membership, count: number): Promise<void> {
    if (this.#giving) return;
    this.#giving = true;
    const { name, logger } = this.#options;
    const lanes = new Set(this.#reading.lanes.sort((a, b) => a - b).slice(-count));
    try {
      await this.#release(lanes);
      await this.#write(async () => {
        const { kept, released } = this.#reading.stored(this.#handling.unfinished);
        await this.#options.flush?.();
        await membership.give(kept, released);
        this.#reading.forgetReleased();
      });
      this.#observer.lanes?.(this.#reading.lanes.length);
      logger.info('Lanes given', {
        group: name,
        epoch: membership.epoch,
        given: count,
        lanes: this.#reading.lanes.length,
      });
    } catch (error) {
      this.#lose(toError(error));
    } finally {
      this.#giving = false;
    }
  }

  /** Nothing more of these lanes is begun. Resolves when what was begun is finished. */
  async #release(lanes: ReadonlySet<number>): Promise<void> {
    this.#reading.release(lanes, this.#handling.drop(lanes));
    await this.#handling.finished(lanes);
  }

  async #leave(membership: Membership): Promise<void> {
    await this.#release(new Set(this.#reading.lanes));
    await this.#write(async () => {
      const { kept, released } = this.#reading.stored(this.#handling.unfinished);
      await this.#options.flush?.();
      await membership.leave([...kept, ...released]);
    });
    this.#options.logger.info('Left the group', { group: this.#options.name, epoch: membership.epoch });
  }

  /** A statement whose answer is unknown, or a membership that is gone, ends the membership; anything else is tried again. */
  #onFailure(error: unknown): never {
    this.#lose(toError(error));
    throw error;
  }

  async #checkServer(to: Snapshot): Promise<void> {
    if (to.server.standby) throw new Error('a group needs the primary, and this server is a standby');
    const membership = this.#membership;
    if (!membership) return;
    const { systemIdentifier, timeline } = to.server;
    if (this.#server && (this.#server.systemIdentifier !== systemIdentifier || this.#server.timeline !== timeline)) {
      this.#lose(new LostMembershipError('another server has taken over'));
      return;
    }
    if (membership.startedAt !== to.server.startedAt) {
      await this.#store(membership); // after a restart: it has all that was stored, or the membership is lost
      if (membership.startedAt !== to.server.startedAt) {
        throw new OtherServerError(
          'the connections of the pool lead to different servers, or the server was restarted',
        );
      }
    }
    this.#server = to.server;
  }

  // --- checkpoints ------------------------------------------------------------------------------------------------------

  get #unstoredMax(): number {
    return UNSTORED_FACTOR * this.#options.checkpointRows;
  }

  #finished(): void {
    this.#unstored++;
    this.#observer.handled?.(1);
    if (this.#unstored === 1 && this.#checkpointAt < performance.now()) {
      this.#checkpointAt = performance.now() + this.#options.checkpointMs;
      this.#wake();
    }
    if (this.#unstored >= this.#options.checkpointRows && !this.#isDue) {
      this.#isDue = true;
      this.#wake();
    }
  }

  #progress = Promise.withResolvers<void>();

  #onProgress(): void {
    this.#progress.resolve();
    this.#progress = Promise.withResolvers();
  }

  async #checkpoint(): Promise<void> {
    const membership = this.#membership!;
    this.#isDue = false;
    if (this.#unstored > 0 && this.#reading.isLevel) {
      this.#listener.prove();
      await Promise.race([
        this.#progress.promise,
        this.#stalled.promise,
        sleep(PROOF_WAIT_MS, undefined, { ref: false }),
      ]);
    }
    await this.#store(membership).catch((error) => {
      if (error instanceof LostMembershipError) this.#lose(error);
      const { logger, name } = this.#options;
      logger.warn('A checkpoint was not stored, trying again', { group: name, reason: (error as Error).message });
      return sleep(backoff(3));
    });
  }
  #stalled = Promise.withResolvers<void>();

  async #store(membership: Membership): Promise<void> {
    await this.#write(async () => {
      const count = this.#unstored;
      const unfinished = this.#handling.unfinished;
      const { kept, released } = this.#reading.stored(unfinished);
      await this.#options.flush?.();
      if (membership !== this.#membership) return;
      const sentAt = performance.now();
      await membership.store([...kept, ...released], unfinished.length);
      this.#onStored(count, sentAt);
    });
  }

  #onStored(count: number, sentAt: number): void {
    this.#unstored -= count;
    this.#leaseUntil = sentAt + this.#options.leaseMs;
    this.#stored.resolve();
    this.#stored = Promise.withResolvers();
  }

  /** One write of the member's row at a time. */
  #write<T>(work: () => Promise<T>): Promise<T> {
    const written = this.#writing.then(work);
    this.#writing = written.catch(() => {});
    return written;
  }

  // --- handling ---------------------------------------------------------------------------------------------------------

  #deliver(row: Row): Promise<void> | undefined {
    if (performance.now() > this.#leaseUntil) return this.#whenRenewed(row);
    const busy = this.#handling.take(row, this.#reading.arrival);
    if (this.#unstored >= this.#unstoredMax) return this.#whenStored(busy);
    if (this.#isDue && busy === undefined) return nextTurn(); // so that the checkpoint gets on its way
    return busy;
  }

  /** Others may have taken the lanes: nothing is begun before the lease is renewed. */
  async #whenRenewed(row: Row): Promise<void> {
    const { arrival } = this.#reading;
    const membership = this.#membership;
    this.#isDue = true;
    this.#wake();
    while (this.#membership === membership && membership && performance.now() > this.#leaseUntil)
      await this.#stored.promise;
    if (membership && this.#membership === membership) await this.#handling.take(row, arrival);
  }

  async #whenStored(busy: Promise<void> | undefined): Promise<void> {
    const membership = this.#membership;
    this.#stalled.resolve();
    this.#stalled = Promise.withResolvers();
    while (this.#membership === membership && membership && this.#unstored >= this.#unstoredMax)
      await this.#stored.promise;
    await busy;
  }

  async #commit(handleBatch: BatchHandler<Row>, works: readonly Work<Row>[]): Promise<Outcome> {
    const done = new Set(works.map(({ id }) => id));
    return this.#transact(handleBatch, works, (client, membership) =>
      this.#write(async () => {
        const unfinished = this.#handling.unfinished.filter(({ id }) => !done.has(id));
        const { kept, released } = this.#reading.stored(unfinished);
        const sentAt = performance.now();
        await membership.storeWith(client, [...kept, ...released]);
        await client.query('COMMIT');
        this.#onStored(this.#unstored, sentAt);
      }),
    );
  }

  async #commitAgain(handleBatch: BatchHandler<Row>, work: Work<Row>): Promise<Outcome> {
    return this.#transact(handleBatch, [work], async (client, { groupId, epoch }) => {
      const { rowCount } = await client.query(
        `DELETE FROM public.signal_retries
         WHERE group_id = $1 AND signal_id = $2 AND running = $3 AND EXISTS (
           SELECT FROM public.signal_group_members WHERE group_id = $1 AND epoch = $3 FOR SHARE
         )`,
        [groupId, work.id, epoch],
      );
      if (rowCount === 0) throw new LostMembershipError('the row is another member’s');
      await client.query('COMMIT');
    });
  }

  /** The handler and what `finish` stores and commits: both, or neither. */
  async #transact(
    handleBatch: BatchHandler<Row>,
    works: readonly Work<Row>[],
    finish: (client: PoolClient, membership: Membership) => Promise<void>,
  ): Promise<Outcome> {
    const membership = this.#membership;
    if (!membership) return 'lost';
    const { timeoutMs } = this.#options;
    try {
      await inTransaction(this.#pool, timeoutMs, async (client) => {
        // A member that is frozen here holds locks: the server ends its transaction.
        await client.query(`SET LOCAL idle_in_transaction_session_timeout = ${timeoutMs}`);
        await handleBatch(
          works.map(({ row }) => row),
          client,
        );
        if (membership !== this.#membership) throw new LostMembershipError('the membership has ended');
        await finish(client, membership);
      });
      return undefined;
    } catch (error) {
      if (!(error instanceof LostMembershipError || error instanceof NoAnswerError)) return toError(error);
      if (membership === this.#membership) this.#lose(error);
      return 'lost';
    }
  }

  // --- rows that failed -------------------------------------------------------------------------------------------------

  #defer(work: Work<Row>, error: Error | undefined): Promise<void> {
    if (error) {
      const { logger, name } = this.#options;
      const fields = { group: name, id: work.id, reason: error.message };
      logger.warn('Handler failed, trying again later', fields);
    }
    return this.#retries!.keep(work, error);
  }

  #newRetries(membership: Membership): Retries<Row> {
    const { name, logger, retries } = this.#options;
    return new Retries<Row>({
      query: this.#query,
      logger,
      group: { id: membership.groupId, name },
      epoch: membership.epoch,
      retries,
      observer: {
        retried: () => this.#observer.retried?.(),
        deadLetter: () => this.#observer.deadLetter?.(),
      },
      lanes: () => this.#reading.lanes,
      reserve: (wanted) => this.#handling.reserve(wanted),
      run: (due) => this.#runAgain(membership, due),
    });
  }

  async #runAgain(
    membership: Membership,
    due: DueRow,
  ): Promise<{ error: Error | undefined; row: Row | undefined } | undefined> {
    while (membership === this.#membership) {
      let row: Row | undefined;
      try {
        row = await this.#readRow(due);
      } catch (error) {
        const { logger, name } = this.#options;
        logger.warn('A row that is due could not be read, trying again', {
          group: name,
          id: due.id,
          reason: (error as Error).message,
        });
        await sleep(1_000);
        continue;
      }
      if (!row) return { error: undefined, row: undefined };
      const error = await this.#handling.again({ ...due, row, suspect: false });
      return membership === this.#membership ? { error, row } : undefined;
    }
    return undefined;
  }

  /** Undefined, and logged, where the row was deleted. */
  async #readRow(due: DueRow): Promise<Row | undefined> {
    const { feed: table, proofTimeoutMs: timeoutMs, maxRowBytes, logger, name } = this.#options;
    const server = this.#server;
    if (!server) throw new OtherServerError('it is not known yet which server answers');
    const [whole] = await readRows(
      { query: this.#query, table, server, timeoutMs },
      [{ id: due.id, xid: String(due.xid) }],
      maxRowBytes,
    );
    if (whole?.payload !== undefined) return table.parse(whole.payload) as Row;
    logger.warn('A row that was to be run again is gone, or too large', { group: name, id: due.id });
    return undefined;
  }

  #check(pool: Pool): void {
    const { name, lanes, order, feed, retries, ...numbers } = this.#options;
    if (pool.options.max < 3)
      throw new RangeError(`A group needs a pool of at least 3 connections: max is ${pool.options.max}`);
    if (!/^[A-Za-z0-9_.:-]{1,63}$/.test(name)) {
      throw new RangeError(`name: expected 1 to 63 letters, digits and _.:-, got ${JSON.stringify(name)}`);
    }
    if (!(Number.isSafeInteger(lanes) && lanes >= 1 && lanes <= 1024))
      throw new RangeError(`lanes: expected 1 to 1024, got ${lanes}`);
    if (!(Number.isSafeInteger(retries) && retries >= 0))
      throw new RangeError(`retries: expected a whole number, got ${retries}`);
    for (const key of ['concurrency', 'timeoutMs', 'leaseMs', 'checkpointMs', 'checkpointRows'] as const) {
      const value = numbers[key];
      if (!(Number.isSafeInteger(value) && value > 0))
        throw new RangeError(`${key}: expected a whole number of at least 1, got ${value}`);
    }
    const column = order?.split('.')[0];
    if (column !== undefined && !feed.columns.includes(column)) {
      throw new RangeError(`order: expected a column of ${feed.table} (${feed.columns.join(', ')}), got ${column}`);
    }
  }
}
