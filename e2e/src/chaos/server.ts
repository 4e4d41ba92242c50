/** The PostgreSQL of one run: a real server on a fixed port, easy to crash. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { freePort } from '@pg-signals/local/free-port';
import pg from 'pg';

export class ChaosServer {
  readonly #directory: string;
  readonly #maxConnections: number;
  #running: EmbeddedPostgres | undefined;
  #port = 0;
  #closed = false;
  /** Starts and stops run one at a time. */
  #turn: Promise<void> = Promise.resolve();

  constructor(directory: string, maxConnections: number) {
    this.#directory = directory;
    this.#maxConnections = maxConnections;
  }

  get url(): string {
    return this.#running!.url;
  }

  start(): Promise<void> {
    return this.#inTurn(() => this.#start());
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
    await this.#running?.stop('immediate');
  }

  /** A connection of the checker itself, which bypasses every proxy. The caller ends it. */
  async connect(name: string): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.url,
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
    this.#port ||= await freePort();
    this.#running = await startEmbeddedPostgres({
      directory: this.#directory,
      port: this.#port,
      settings: {
        max_connections: String(this.#maxConnections),
        // Only processes crash here, not the machine: what was written survives without a flush.
        fsync: 'off',
        // A crash forgets what no commit waited for: above all the ids of transactions that rolled back or only
        // notified, which are then assigned again. The default limits that to 0.2 s; this is the longest setting.
        wal_writer_delay: '10s',
      },
    });
  }
}

/** True when a connection was lost or refused, which a run is about. Any other error is a bug of the checker. */
export function isConnectionError(error: unknown): boolean {
  // 08 connection exception, 53 too many connections, 57 shut down or not up yet.
  if (error instanceof pg.DatabaseError) return /^(08|53|57)/.test(error.code ?? '');
  // pg and the system throw a plain Error; a TypeError is a bug.
  return error instanceof Error && error.constructor === Error;
}
