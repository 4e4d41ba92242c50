/** The PostgreSQL of a run: real, its own, on a port that stays, and easy to crash. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type EmbeddedPostgres, freePort, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import pg from 'pg';

export class ChaosServer {
  readonly #directory: string;
  readonly #maxConnections: number;
  #running: EmbeddedPostgres | undefined;
  #port = 0;
  #closed = false;
  /** Starts and stops go one at a time. */
  #turn: Promise<void> = Promise.resolve();

  constructor(directory: string, maxConnections: number) {
    this.#directory = directory;
    this.#maxConnections = maxConnections;
  }

  get url(): string {
    return this.#running!.url;
  }

  get port(): number {
    return this.#port;
  }

  start(): Promise<void> {
    return this.#inTurn(() => this.#start());
  }

  /** Stops the server, `immediate` being a crash, leaves it down for a while, and starts it on the same data and port. */
  bounce(mode: 'fast' | 'immediate', downMs: number): Promise<void> {
    return this.#inTurn(async () => {
      await this.#running!.stop(mode);
      await sleep(downMs);
      await this.#start();
    });
  }

  /** Ends the server for good. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#turn.catch(() => {});
    await this.#running?.stop('immediate');
  }

  /** A connection of the checker's own, past every proxy. The caller ends it. */
  async connect(name: string): Promise<pg.Client> {
    const client = new pg.Client({
      connectionString: this.url,
      application_name: `chaos ${name}`,
      connectionTimeoutMillis: 5_000,
    });
    client.on('error', () => {}); // the query in flight, or the next one, tells it
    await client.connect();
    return client;
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
        // Processes crash here, the machine does not: what was written survives without a flush.
        fsync: 'off',
        // A crash forgets what nobody waited for, above all that a transaction id was taken by one that rolled back or
        // only notified: the id comes again. The longest setting makes sure of it; by default the window is 0.2 s.
        wal_writer_delay: '10s',
      },
    });
  }
}

/**
 * Whether the error says that a connection was lost or could not be had, which is what a run is about; any other one is
 * a mistake of the checker's own.
 */
export function isConnectionError(error: unknown): boolean {
  // 08 connection exception, 53 too many connections, 57 shut down or not up yet.
  if (error instanceof pg.DatabaseError) return /^(08|53|57)/.test(error.code ?? '');
  // What pg and the system throw is a plain Error; a TypeError, say, is a bug.
  return error instanceof Error && error.constructor === Error;
}
