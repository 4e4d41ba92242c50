/** What the tests of a listener share: a listener in this process whose deliveries can be waited for. */
import { createPool, type Signal } from '@pg-signals/db';
import { createLogger } from '@pg-signals/runtime';
import pg from 'pg';
import { onTestFailed } from 'vitest';
import type { FeedObserver } from '../src/feed.ts';
import { Listener, type ListenerOptions, type SignalCallback } from '../src/index.ts';

/** Resolves when a condition holds, which is looked at after each event that `changed` tells of. */
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

export interface TestListener {
  readonly listener: Listener;
  readonly pool: pg.Pool;
  readonly signals: Signal[];
  readonly ids: number[];
  /** Pages of the table that were handed on, empty ones too. */
  reads: number;
  /** Markers that came back while live. */
  proofs: number;
  log: string;
  /** Resolves when the log has this text. */
  logged(text: string | RegExp, times?: number): Promise<void>;
  /** Resolves when a condition holds, which is looked at after each signal, read, proof and line of the log. */
  until(holds: () => boolean): Promise<void>;
  /** Resolves when so many signals were handed on. */
  received(count: number): Promise<void>;
  /** Resolves when no callback works and the pool is closed. */
  stop(): Promise<void>;
}

export interface TestListenerOptions extends ListenerOptions {
  url: string;
  callback?: SignalCallback;
  max?: number;
  prepare?: (listener: Listener) => void;
}

/** Starts a listener whose proofs are frequent; does not wait for it to listen. */
export function startListener({
  url,
  callback,
  max = 4,
  prepare,
  observer,
  ...options
}: TestListenerOptions): TestListener {
  const condition = new Condition();
  const pool = createPool({
    connectionString: url,
    application_name: 'test listener',
    max,
    connectionTimeoutMillis: 1_000,
  });
  const started: TestListener = {
    listener: undefined as never,
    pool,
    signals: [],
    ids: [],
    reads: 0,
    proofs: 0,
    log: '',
    logged: (text, times = 1) =>
      condition.until(() => [...started.log.matchAll(new RegExp(text, 'g'))].length >= times),
    until: (holds) => condition.until(holds),
    received: (count) => condition.until(() => started.ids.length >= count),
    async stop() {
      abort.abort();
      await running;
      await pool.end();
    },
  };
  const delivered = (ms: number) => {
    started.proofs++;
    observer?.delivered?.(ms);
    condition.changed();
  };
  const handedOn: FeedObserver['handedOn'] = (source, rows) => {
    if (source === 'catch_up') started.reads++;
    observer?.handedOn?.(source, rows);
    condition.changed();
  };
  const logger = createLogger({
    level: 'debug',
    write: (lines) => {
      started.log += lines;
      condition.changed();
    },
  });
  const listener = new Listener(
    pool,
    {
      logger,
      proofIntervalMs: 100,
      proofTimeoutMs: 1_000,
      pollMs: 20,
      retryMs: 100,
      ...options,
      observer: { ...observer, delivered, handedOn },
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
    process.stderr.write(`handed on ${started.ids.length}, the last lines of the log:\n${started.log.slice(-4_000)}\n`);
  });
  const abort = new AbortController();
  const running = listener.start(abort.signal);
  return Object.assign(started, { listener });
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
