/** The public face: listens for signals, or for any channel and any table, on one connection of a pool. */
import type { Signal } from '@pg-signals/db';
import { createLogger, type Logger } from '@pg-signals/runtime';
import type { Pool } from 'pg';
import { createQuery, type Query } from './database.ts';
import { Feed, type FeedObserver } from './feed.ts';
import { type Callback, HandOn } from './handOn.ts';
import { type Link, Linker, type PayloadHandler } from './link.ts';
import { type LogRow, type LogTable, signalsTable } from './logTable.ts';

/** Called with every signal, in the order of delivery. */
export type SignalCallback = Callback<Signal>;

/** Is told what a listener does; for metrics. */
export interface ListenerObserver extends FeedObserver {
  /** True from the first proof on a connection until that connection is lost. */
  listening(now: boolean): void;
  /** A connection is about to be opened, the first one included. */
  connecting(): void;
}

export interface ListenerOptions {
  logger?: Logger;
  observer?: Partial<ListenerObserver>;
  /** Signals that a callback may have in hand at a time; above 1 they begin in order and end as they will. */
  concurrency?: number;
  /** Payloads that wait at the most; past that the table is read instead. */
  bufferMax?: number;
  /** Time between two proofs, in ms. */
  proofIntervalMs?: number;
  /** Signals between two proofs. */
  proofEvery?: number;
  /** Longest wait for a proof, a connection or the answer to a small query, in ms. */
  proofTimeoutMs?: number;
  /** Time between two reads of the table where LISTEN is not to be had, in ms. */
  pollMs?: number;
  /** Time between two attempts to LISTEN there, in ms. */
  retryMs?: number;
}

const DEFAULTS = {
  concurrency: 1,
  bufferMax: 10_000,
  proofIntervalMs: 5_000,
  proofEvery: 10_000,
  proofTimeoutMs: 5_000,
  pollMs: 1_000,
  retryMs: 30_000,
};

const SILENT: ListenerObserver = {
  listening() {},
  connecting() {},
  handedOn() {},
  duplicate() {},
  invalidPayload() {},
  delivered() {},
};

/** A page of the table may take longer than a proof: it may come from a cold disk. */
const READ_DEADLINES = 6;

/**
 * Hands every signal that is committed from `Starting listener` on to each callback, exactly once while this object
 * lives, whatever happens to the connection, the server or the load.
 *
 * - Order: the rows of one transaction come in the order of their ids. Transactions come in the order of their commits
 *   while live; what is caught up comes in the order (transaction, id), after what came before it.
 * - A callback that throws or rejects is logged; the signal counts as handed on. A callback that returns a promise holds
 *   up the next signal until it settles (see `concurrency`).
 * - A process that ends forgets its position: the next one begins anew.
 * - The pool must give at least two connections: one listens, the others prove and read.
 *
 * Handlers of plain channels (`addListener`) get what comes while the connection lives: at most once.
 */
export class Listener {
  readonly #options: typeof DEFAULTS & { logger: Logger; observer: ListenerObserver };
  readonly #query: Query;
  readonly #linker: Linker;
  readonly #feeds: Pick<Feed<LogRow>, 'follow' | 'idle' | 'proofAgeMs'>[] = [];
  #started = false;

  constructor(pool: Pool, ...callbacks: SignalCallback[]);
  constructor(pool: Pool, options: ListenerOptions, ...callbacks: SignalCallback[]);
  constructor(pool: Pool, first: ListenerOptions | SignalCallback = {}, ...rest: SignalCallback[]) {
    if (pool.options.max < 2) throw new RangeError('A listener needs a pool of at least 2 connections: max is 1');
    const [given, callbacks] = typeof first === 'function' ? [{}, [first, ...rest]] : [first, rest];
    const observer = { ...SILENT, ...given.observer };
    this.#options = { ...DEFAULTS, logger: given.logger ?? createLogger(), ...given, observer };
    const { logger, proofIntervalMs, proofTimeoutMs, retryMs } = this.#options;
    this.#query = createQuery(pool, proofTimeoutMs);
    this.#linker = new Linker({
      pool,
      query: this.#query,
      logger,
      proofIntervalMs,
      proofTimeoutMs,
      retryMs,
      onConnecting: () => observer.connecting(),
      follow: (link) => this.#follow(link),
    });
    if (callbacks.length > 0) this.addFeed(signalsTable, ...callbacks);
  }

  /**
   * Follows another table that is written like `signals` (see `LogTable`), with the same guarantees, on the same
   * connection.
   *
   * @throws {Error} once the listener has started: a feed begins with it, so that it has a beginning.
   */
  addFeed<Row extends LogRow>(log: LogTable<Row>, ...callbacks: Callback<Row>[]): this {
    if (this.#started) throw new Error('Add a feed before the listener starts');
    const { logger, concurrency, observer, bufferMax, proofEvery, pollMs, proofTimeoutMs } = this.#options;
    const handOn = new HandOn<Row>(callbacks, { concurrency, logger });
    const readDeadlineMs = proofTimeoutMs * READ_DEADLINES;
    const query = this.#query;
    const feed = new Feed<Row>({ log, query, handOn, logger, observer, bufferMax, proofEvery, pollMs, readDeadlineMs });
    this.#feeds.push(feed);
    this.#linker.observeProofs(feed);
    this.#linker.addHandler(log.channel, feed.receive);
    return this;
  }

  /**
   * Calls `handler` with each payload notified on a channel, from now on or from the start on. At most once: what is
   * notified while the connection is lost is gone, since no table holds it.
   *
   * @throws {RangeError} for a name that PostgreSQL would cut (more than 63 bytes).
   */
  addListener(channel: string, handler: PayloadHandler): this {
    this.#linker.addHandler(channel, handler);
    return this;
  }

  /** The last handler of a channel gone, the connection no longer listens on it. */
  removeListener(channel: string, handler: PayloadHandler): this {
    this.#linker.removeHandler(channel, handler);
    return this;
  }

  /**
   * How old the proof is, in ms, that everything committed before it has come: of several feeds the oldest. Undefined
   * before the first proof.
   */
  get proofAgeMs(): number | undefined {
    const ages = this.#feeds.map((feed) => feed.proofAgeMs);
    return ages.includes(undefined) ? undefined : Math.max(...(ages as number[]));
  }

  /**
   * Listens until `signal` aborts. Resolves when no callback is at work any more and the connection is back in the pool,
   * with UNLISTEN done. Never rejects: a lost connection, the first one included, is opened again for ever.
   *
   * @throws {Error} when called twice.
   */
  async start(signal: AbortSignal): Promise<void> {
    if (this.#started) throw new Error('This listener was started before');
    this.#started = true;
    await this.#linker.run(signal);
    await Promise.all(this.#feeds.map((feed) => feed.idle()));
  }

  async #follow(link: Link): Promise<void> {
    const { observer } = this.#options;
    if (link.mode === 'listening') {
      observer.listening(true);
      link.ended.addEventListener('abort', () => observer.listening(false), { once: true });
    }
    await Promise.all(this.#feeds.map((feed) => feed.follow(link)));
  }
}
