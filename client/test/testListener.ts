/** What the tests of a listener share: databases, writers, and listeners whose deliveries and events can be waited for. */
import { createPool, type Signal } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterEach, beforeEach, onTestFailed } from 'vitest';
import { Listener, type ListenerObserver, type ListenerOptions, type SignalCallback } from '../src/index.ts';

/** Resolves when a condition holds, which is checked after each `changed`. */
export class Condition {
  #waiting: { holds: () => boolean; resolve: () => void }[] = [];

  changed(): void {
    this.#waiting = this.#waiting.filter(({ holds, resolve }) => {
      if (holds()) resolve();
      return !holds();
    });
  }

  until(holds: () => boolean): Promise<void> {
    if (holds()) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push({ holds, resolve }));
  }
}

/** How often each thing happened. */
export type Counts = Record<keyof ListenerObserver | 'reads' | 'level', number>;

export interface TestListener {
  readonly listener: Listener;
  readonly pool: pg.Pool;
  readonly signals: Signal[];
  readonly ids: number[];
  /** Calls of the observer; `listening`, `polling` and `behind` count their beginnings, `reads` pages of the table. */
  readonly counts: Counts;
  /** Why a connection was given up, each time. */
  readonly retries: { reason: string; attempt: number }[];
  log: string;
  /** Resolves when the listener has begun to listen so many times. */
  listening(times?: number): Promise<void>;
  /** Resolves when something has happened so many times. */
  happened(event: keyof Counts, times?: number): Promise<void>;
  /** Resolves when a condition holds, which is checked after each signal and event. */
  until(holds: () => boolean): Promise<void>;
  /** Resolves when so many signals were delivered. */
  received(count: number): Promise<void>;
  /** Resolves when no callback works and the pool is closed. */
  stop(): Promise<void>;
}

export interface TestListenerOptions extends ListenerOptions {
  url: string;
  callback?: SignalCallback;
  max?: number;
  /** 1: each query takes a connection of its own, so that an address that has moved is noticed at once. */
  maxUses?: number;
  prepare?: (listener: Listener) => void;
}

/** Starts a listener whose proofs are frequent; does not wait until it listens. */
export function startListener({
  url,
  callback,
  max = 4,
  maxUses,
  prepare,
  ...options
}: TestListenerOptions): TestListener {
  const condition = new Condition();
  const connectionTimeoutMillis = 1_000;
  const pool = createPool({
    connectionString: url,
    application_name: 'test listener',
    max,
    ...(maxUses && { maxUses }),
    connectionTimeoutMillis,
  });
  const counts = {} as Counts;
  const count = (event: keyof Counts) => {
    counts[event] = (counts[event] ?? 0) + 1;
    condition.changed();
  };
  const started: TestListener = {
    listener: undefined as never,
    pool,
    signals: [],
    ids: [],
    counts,
    retries: [],
    log: '',
    listening: (times = 1) => started.happened('listening', times),
    happened: (event, times = 1) => condition.until(() => (counts[event] ?? 0) >= times),
    until: (holds) => condition.until(holds),
    received: (expected) => condition.until(() => started.ids.length >= expected),
    stop: () => (stopped ??= stop()),
  };
  const stop = async () => {
    abort.abort();
    await running;
    await pool.end();
  };
  let stopped: Promise<void> | undefined;
  const line =
    (level: string) =>
    (message: string, fields: Record<string, unknown> = {}) => {
      const shown = Object.entries(fields).map(([name, value]) => ` ${name}=${value}`);
      started.log += `${level} ${message}${shown.join('')}\n`;
    };
  const observer: ListenerObserver = {
    connecting: () => count('connecting'),
    retrying(error, attempt) {
      started.retries.push({ reason: error.message, attempt });
      count('retrying');
    },
    listening: (now) => now && count('listening'),
    polling: (now) => now && count('polling'),
    callbackFailed() {},
    delivered(source) {
      if (source === 'catch_up') count('reads');
      count('delivered');
    },
    duplicate: () => count('duplicate'),
    invalidPayload: () => count('invalidPayload'),
    rowMissing: () => count('rowMissing'),
    rowTooLarge: () => count('rowTooLarge'),
    behind: (now) => count(now ? 'behind' : 'level'),
    serverChanged: () => count('serverChanged'),
    latency: () => count('latency'),
    readFailed: () => count('readFailed'),
  };
  const listener = new Listener(
    pool,
    {
      logger: { info: line('INFO'), warn: line('WARN'), error: line('ERROR') },
      proofIntervalMs: 100,
      proofTimeoutMs: 1_000,
      pollMs: 20,
      retryMs: 100,
      ...options,
      observer,
    },
    (signal) => {
      started.signals.push(signal);
      started.ids.push(signal.id);
      condition.changed();
      return callback?.(signal);
    },
  );
  prepare?.(listener);
  onTestFailed(() => {
    process.stderr.write(`delivered ${started.ids.length}, the last lines of the log:\n${started.log.slice(-4_000)}\n`);
  });
  const abort = new AbortController();
  const running = listener.start(abort.signal);
  return Object.assign(started, { listener });
}

export interface TestListeners {
  /** The database of the test. */
  url: string;
  writer: Writer;
  /** Another connection that writes. */
  another(): Promise<Writer>;
  /** Starts a listener that ends with the test; does not wait until it listens. */
  start(options?: Partial<TestListenerOptions>): TestListener;
  /** The same, and waits until it listens. */
  listening(options?: Partial<TestListenerOptions>): Promise<TestListener>;
  /** Ends all listeners at once, where the end of the test is too late. */
  stop(): Promise<void>;
}

/**
 * Gives each test of a file a writer, and listeners that end with the test.
 *
 * @param options `url` of a server that the file has itself; otherwise each test has a database of its own.
 */
export function useListeners({
  url,
  ...defaults
}: Partial<Omit<TestListenerOptions, 'url'>> & { url?: () => string } = {}): TestListeners {
  const running: TestListener[] = [];
  const writers: Writer[] = [];
  let database: TestDatabase | undefined;
  const used: TestListeners = {
    url: '',
    writer: undefined as never,
    async another() {
      const writer = await Writer.connect(used.url);
      writers.push(writer);
      return writer;
    },
    start(options = {}) {
      const listener = startListener({ url: used.url, ...defaults, ...options });
      running.push(listener);
      return listener;
    },
    async listening(options) {
      const listener = used.start(options);
      await listener.listening();
      return listener;
    },
    async stop() {
      await Promise.all(running.splice(0).map((listener) => listener.stop()));
    },
  };
  beforeEach(async () => {
    database = url ? undefined : await createTestDatabase();
    used.url = url?.() ?? database!.url;
    used.writer = await Writer.connect(used.url);
  });
  afterEach(async () => {
    await used.stop();
    await Promise.all([used.writer, ...writers.splice(0)].map((writer) => writer.end()));
    await database?.drop();
  });
  return used;
}

/** A connection that writes signals. */
export class Writer {
  readonly client: pg.Client;

  private constructor(client: pg.Client) {
    this.client = client;
  }

  static async connect(url: string): Promise<Writer> {
    const client = new pg.Client({ connectionString: url, application_name: 'test writer' });
    client.on('error', () => {});
    await client.connect();
    return new Writer(client);
  }

  /** Inserts so many rows in one statement; returns their ids. */
  async insert(rows = 1, attributes = '{}'): Promise<number[]> {
    const result = await this.client.query<{ id: string }>(
      `INSERT INTO signals (signal_name, signal_value, attributes)
       SELECT 'test', n, $2::jsonb FROM generate_series(1, $1::int) AS n RETURNING id`,
      [rows, attributes],
    );
    return result.rows.map(({ id }) => Number(id));
  }

  async backends(applicationName = 'test listener'): Promise<number[]> {
    const { rows } = await this.client.query<{ pid: number }>(
      `SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`,
      [applicationName],
    );
    return rows.map(({ pid }) => pid);
  }

  /** Kills every backend of the listeners. */
  async killBackends(applicationName = 'test listener'): Promise<void> {
    await this.client.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`,
      [applicationName],
    );
  }

  /** The ids in the table, in the order (xid, id). */
  async committed(): Promise<number[]> {
    const { rows } = await this.client.query<{ id: string }>('SELECT id FROM signals ORDER BY xid, id');
    return rows.map(({ id }) => Number(id));
  }

  end(): Promise<void> {
    return this.client.end();
  }
}
