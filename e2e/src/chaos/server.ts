/** The PostgreSQL of one run: a real server on a fixed port, easy to crash, and a standby of it where one is needed. */
import { chmodSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { copyAsStandby } from '@pg-signals/local/standby';
import pg from 'pg';

export class ChaosServer {
  readonly #directory: string;
  readonly #maxConnections: number;
  #running: EmbeddedPostgres | undefined;
  #standby: EmbeddedPostgres | undefined;
  #port = 0;
  #closed = false;
  /** Starts and stops run one at a time. */
  #turn: Promise<void> = Promise.resolve();

  /** @param directory for the data; other users can enter it from now on, since root runs the server as one of them. */
  constructor(directory: string, maxConnections: number) {
    chmodSync(directory, 0o755);
    this.#directory = directory;
    this.#maxConnections = maxConnections;
  }

  /** Of the superuser, whose password every role of a run has. */
  get url(): string {
    return this.#running!.url;
  }

  get port(): number {
    return this.#port;
  }

  get standbyPort(): number {
    return this.#standby!.port;
  }

  /** A connection of the checker to the standby, as `connect` opens one to the server. */
  connectToStandby(name: string): Promise<pg.Client> {
    // A standby refuses serializable transactions, which may be the database's default.
    const options = '-c default_transaction_isolation=read\\ committed';
    return this.connect(name, {
      port: String(this.standbyPort),
      search: `${new URLSearchParams({ sslmode: 'disable', options })}`,
    });
  }

  start(): Promise<void> {
    return this.#inTurn(() => this.#start());
  }

  /** Starts a standby that streams from the server, which is stopped for a moment: its data are copied. */
  startStandby(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#running!.stop();
      copyAsStandby(this.#folder('primary'), this.#folder('standby'), this.url);
      await this.#start();
      this.#standby = await startEmbeddedPostgres({ directory: this.#folder('standby'), settings: this.#settings });
    });
  }

  /** Lets the standby lag behind, until the returned function is called. */
  async pauseStandby(): Promise<() => Promise<void>> {
    const client = await this.connectToStandby('faults');
    await client.query('SELECT pg_wal_replay_pause()');
    return async () => {
      await client.query('SELECT pg_wal_replay_resume()');
      await client.end();
    };
  }

  /** Stops the server (`immediate` is a crash) and starts it again after `downMs` on the same data and port. */
  bounce(mode: 'fast' | 'immediate', downMs: number): Promise<void> {
    return this.#inTurn(async () => {
      await this.#running!.stop(mode);
      await sleep(downMs);
      await this.#start();
    });
  }

  /**
   * Kills one backend with SIGKILL: the postmaster ends all others, drops shared memory and recovers from the WAL.
   * The postmaster itself lives on, so `pg_postmaster_start_time()` stays the same.
   *
   * Resolves when the server accepts connections again.
   *
   * @param names patterns (`LIKE`) of the application names to choose from.
   * @param draw which of them: any whole number.
   */
  async killBackend(names: readonly string[], draw: number): Promise<void> {
    const client = await this.connect('killer');
    const ended = new Promise((resolve) => client.once('end', resolve));
    const { rows } = await client.query<{ pid: number }>(
      'SELECT pid FROM pg_stat_activity WHERE application_name LIKE ANY ($1) ORDER BY pid',
      [names],
    );
    if (rows.length === 0) return client.end();
    process.kill(rows[draw % rows.length]!.pid, 'SIGKILL');
    await ended; // so the postmaster has noticed
    await this.#accepts();
  }

  /** Ends the server for good. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#turn.catch(() => {});
    await Promise.all([this.#running?.stop('immediate'), this.#standby?.stop('immediate')]);
  }

  /** A connection of the checker itself, which bypasses every proxy. The caller ends it. */
  async connect(name: string, other: { port?: string; username?: string; search?: string } = {}): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: Object.assign(new URL(this.url), other).href,
      application_name: `chaos ${name}`,
      connectionTimeoutMillis: 5_000,
    });
    client.on('error', () => {}); // the query in flight, or the next one, rejects with it
    await client.connect();
    return client;
  }

  /** Resolves when a connection can be opened. */
  async #accepts(): Promise<void> {
    for (;;) {
      try {
        return await (await this.connect('probe')).end();
      } catch (error) {
        if (!isConnectionError(error)) throw error;
        await sleep(20);
      }
    }
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(() => (this.#closed ? undefined : work()));
    return this.#turn;
  }

  async #start(): Promise<void> {
    this.#running = await startEmbeddedPostgres({
      directory: this.#folder('primary'),
      port: this.#port,
      settings: this.#settings,
    });
    this.#port = this.#running.port; // kept from the first start on
  }

  #folder(name: string): string {
    return path.join(this.#directory, name);
  }

  get #settings(): Record<string, string> {
    return {
      max_connections: String(this.#maxConnections),
      // Only processes crash here, not the machine: what was written survives without a flush.
      fsync: 'off',
      // A crash forgets what no commit waited for: above all the ids of transactions that rolled back or only
      // notified, which are then assigned again. The default limits that to 0.2 s; this is the longest setting.
      wal_writer_delay: '10s',
      // The standby finds all that it lacks, soon after the server is back.
      wal_keep_size: '1GB',
      wal_retrieve_retry_interval: '100ms',
    };
  }
}

/** True when a connection was lost or refused, which a run is about. Any other error is a bug of the checker. */
export function isConnectionError(error: unknown): boolean {
  // 08 connection exception, 53 too many connections, 57 shut down or not up yet.
  if (error instanceof pg.DatabaseError) return /^(08|53|57)/.test(error.code ?? '');
  // pg and the system throw a plain Error; a TypeError is a bug.
  return error instanceof Error && error.constructor === Error;
}
