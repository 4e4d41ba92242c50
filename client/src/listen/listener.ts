/** Listens for signals, or for any channel and any table, on one connection of a pool. */
import { createQuery, type Query, type Signal } from '@pg-signals/db';
import type { Pool } from 'pg';
import { type Logger, silent } from '../logger.ts';
import { CatchUp } from './catchUp.ts';
import { type Connection, type ConnectionObserver, Connector, type PayloadHandler } from './connection.ts';
import { type Callback, Dispatcher } from './dispatcher.ts';
import { Feed, type FeedObserver, type FeedOptions } from './feed.ts';
import { type FeedRow, type FeedTable, signalsTable } from './feedTable.ts';

/** Called with every signal, in the order of delivery. */
export type SignalCallback = Callback<Signal>;

/** Is called with what a listener does; for metrics. */
export interface ListenerObserver extends FeedObserver, ConnectionObserver {
  /** True from the first proof on a connection until that connection is lost. */
  listening(now: boolean): void;
  /** True while the table is read because LISTEN is unavailable. */
  polling(now: boolean): void;
  /** A callback threw or rejected. */
  callbackFailed(): void;
}

export interface ListenerOptions {
  /** Silent unless given. A callback that fails is reported here and nowhere else. */
  logger?: Logger;
  observer?: Partial<ListenerObserver>;
  /** Signals that the callbacks may work on at a time (1); above 1 they begin in order and end in any. */
  concurrency?: number;
  /** Notifications that wait at most (10,000); past that the table is read instead. */
  bufferMax?: number;
  /** Time between two proofs, in ms (5,000). A proof: a marker sent through another connection comes back on this one. */
  proofIntervalMs?: number;
  /** Notifications between two proofs (10,000). */
  proofEvery?: number;
  /** Longest wait for a proof, a connection or the answer to a small query, in ms (5,000). */
  proofTimeoutMs?: number;
  /** Size of the largest row that is delivered, as JSON, in bytes (16 MiB); a larger one is skipped with a line in the log. */
  maxRowBytes?: number;
  /** Time between two reads of the table where LISTEN is unavailable, in ms (1,000). */
  pollMs?: number;
  /** Time between two attempts to LISTEN where it is unavailable, in ms (30,000). */
  retryMs?: number;
}

const DEFAULTS = {
  concurrency: 1,
  bufferMax: 10_000,
  proofIntervalMs: 5_000,
  proofEvery: 10_000,
  proofTimeoutMs: 5_000,
  maxRowBytes: 16 * 2 ** 20,
  pollMs: 1_000,
  retryMs: 30_000,
};

const UNOBSERVED: ListenerObserver = {
  connecting() {},
  retrying() {},
  listening() {},
  polling() {},
  callbackFailed() {},
  delivered() {},
  duplicate() {},
  invalidPayload() {},
  rowMissing() {},
  rowTooLarge() {},
  behind() {},
  serverChanged() {},
  latency() {},
  readFailed() {},
};

/** What every feed of a listener has in common. */
export type FeedShared<Row extends FeedRow> = Omit<FeedOptions<Row>, 'dispatcher' | 'reading'>;

/** Reading a page of the table may take this many times longer than a proof: it may come from a cold disk. */
const READ_TIMEOUT_FACTOR = 6;

/**
 * Delivers every signal that is committed from `Starting listener` on to each callback, exactly once while this object
 * lives, whatever happens to the connection, the server or the load.
 *
 * - Order: the rows of one transaction come in the order of their ids. Transactions come in the order of their commits
 *   while live; what is caught up comes in the order (transaction, id), after what came before it.
 * - A callback that throws or rejects is logged; the signal counts as delivered. A callback that returns a promise holds
 *   up the next signal until it settles (see `concurrency`).
 * - A process that ends forgets its cursor: the next one begins anew.
 * - The pool must allow at least two connections: one listens, the others prove and read.
 *
 * Handlers of plain channels (`addListener`) get what comes while the connection lives: at most once.
 */
export class Listener {
  readonly #options: typeof DEFAULTS & { logger: Logger; observer: ListenerObserver };
  readonly #query: Query;
  readonly #connector: Connector;
  readonly #feeds: Pick<Feed<FeedRow>, 'follow' | 'mark' | 'idle' | 'proofAgeMs'>[] = [];
  #connection: Connection | undefined;
  #started = false;

  /** @throws {RangeError} for a pool of fewer than two connections, or an option that is not a whole number of at least 1. */
  constructor(pool: Pool, ...callbacks: SignalCallback[]);
  constructor(pool: Pool, options: ListenerOptions, ...callbacks: SignalCallback[]);
  constructor(pool: Pool, first: ListenerOptions | SignalCallback = {}, ...rest: SignalCallback[]) {
    if (pool.options.max < 2) throw new RangeError('A listener needs a pool of at least 2 connections: max is 1');
    const [given, callbacks] = typeof first === 'function' ? [{}, [first, ...rest]] : [first, rest];
    const observer = { ...UNOBSERVED, ...given.observer };
    this.#options = { ...DEFAULTS, logger: silent, ...given, observer };
    for (const name of Object.keys(DEFAULTS) as (keyof typeof DEFAULTS)[]) {
      const value = this.#options[name];
      if (!(Number.isSafeInteger(value) && value > 0)) {
        throw new RangeError(`${name}: expected a whole number of at least 1, got ${value}`);
      }
    }
    this.#query = createQuery(pool, this.#options.proofTimeoutMs);
    this.#connector = new Connector({
      ...this.#options,
      pool,
      query: this.#query,
      onMarker: (marker) => {
        for (const feed of this.#feeds) feed.mark(marker);
      },
      follow: (connection) => this.#follow(connection),
    });
    if (callbacks.length > 0) this.addFeed(signalsTable, ...callbacks);
  }

  /**
   * Follows another table that is written like `signals` (see `FeedTable`), with the same guarantees, on the same
   * connection.
   *
   * @throws {Error} once the listener has started: every feed takes its cursor at the start.
   */
  addFeed<Row extends FeedRow>(table: FeedTable<Row>, ...callbacks: Callback<Row>[]): this {
    const { concurrency, logger, observer } = this.#options;
    const onFailure = () => observer.callbackFailed();
    const onServerChanged = () => observer.serverChanged();
    this.attach(table, (shared) => ({
      dispatcher: new Dispatcher<Row>(callbacks, { concurrency, logger, onFailure }),
      reading: (deliver) => new CatchUp({ ...shared, onServerChanged, deliver }),
    }));
    return this;
  }

  /** @internal Follows a table that is read, and whose rows are dispatched, in another way: for groups. */
  attach<Row extends FeedRow>(
    table: FeedTable<Row>,
    make: (shared: FeedShared<Row>) => Pick<FeedOptions<Row>, 'dispatcher' | 'reading'>,
  ): Feed<Row> {
    if (this.#started) throw new Error('Add a feed before the listener starts');
    const readTimeoutMs = this.#options.proofTimeoutMs * READ_TIMEOUT_FACTOR;
    const shared = { ...this.#options, table, query: this.#query, readTimeoutMs };
    const feed = new Feed<Row>({ ...shared, ...make(shared) });
    this.#feeds.push(feed);
    this.#connector.addHandler(table.channel, feed.receive);
    return feed;
  }

  /**
   * Calls `handler` with each payload notified on a channel, from now on or from the start on. At most once: what is
   * notified while the connection is lost is gone, since no table holds it.
   *
   * @throws {RangeError} for a name that PostgreSQL would cut (more than 63 bytes).
   */
  addListener(channel: string, handler: PayloadHandler): this {
    this.#connector.addHandler(channel, handler);
    return this;
  }

  /** Stops calling a handler. When the last one of a channel is gone, the connection no longer listens on it. */
  removeListener(channel: string, handler: PayloadHandler): this {
    this.#connector.removeHandler(channel, handler);
    return this;
  }

  /**
   * Everything committed longer ago than this, in ms, has been received; of several feeds, the oldest. Undefined before the
   * first proof, and without a feed.
   */
  get proofAgeMs(): number | undefined {
    const ages = this.#feeds.map((feed) => feed.proofAgeMs);
    return ages.length === 0 || ages.includes(undefined) ? undefined : Math.max(...(ages as number[]));
  }

  /**
   * Listens until `signal` aborts. Resolves when no callback is at work any more and the connection is back in the pool,
   * with UNLISTEN done. A lost connection, the first one included, is opened again forever.
   *
   * @throws {Error} when called twice.
   */
  async start(signal: AbortSignal): Promise<void> {
    if (this.#started) throw new Error('This listener was started before');
    this.#started = true;
    await this.#connector.run(signal);
    await Promise.all(this.#feeds.map((feed) => feed.idle()));
  }

  /** The server's process behind the connection that listens. */
  get backend(): number | undefined {
    return this.#connection?.mode === 'listening' ? this.#connection.backend : undefined;
  }

  /** Asks for a proof now, where notifications come. */
  prove(): void {
    if (this.#connection?.mode === 'listening') this.#connection.prove().catch(() => {}); // a failed one ends the connection
  }

  #follow(connection: Connection): void {
    this.#connection = connection;
    const { observer } = this.#options;
    const tell = (now: boolean) => observer[connection.mode](now); // `listening` or `polling`
    tell(true);
    connection.ended.addEventListener('abort', () => tell(false), { once: true });
    for (const feed of this.#feeds) feed.follow(connection);
  }
}
