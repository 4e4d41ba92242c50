/** Where every connection of ours to PostgreSQL is made. */
import pg, { type PoolClient, type PoolConfig } from 'pg';
import PgPool from 'pg-pool';

export interface PoolOptions extends PoolConfig {
  connectionString: string;
  /** What `pg_stat_activity` shows of us. */
  application_name: string;
  /** Called with each error of a connection, idle or in use. The pool replaces the connection by itself. */
  onConnectionError?: (error: Error) => void;
}

/**
 * A pool whose connections are kept alive by TCP, are named, fail to open after 5 s at the latest, and never end the
 * process: an error of a connection is told to `onConnectionError`, whether it lies idle or is checked out.
 *
 * Nothing is connected until the first use.
 */
export function createPool({ onConnectionError = () => {}, ...config }: PoolOptions): pg.Pool {
  const pool = new PgPool<pg.Client>({
    keepAlive: true,
    // Linux asks a silent peer for the first time after two hours; a firewall forgets it after minutes.
    keepAliveInitialDelayMillis: 30_000,
    connectionTimeoutMillis: 5_000,
    Client: pg.Client,
    ...config,
    // @types/pg-pool describes the class apart from pg's own `Pool`, which is this very class with `Client` filled in.
  } as PgPool.Config<pg.Client>) as unknown as pg.Pool;
  // pg-pool hears the errors of idle clients only, and emits them again here; unheard, either would end the process.
  pool.on('error', () => {});
  pool.on('connect', (client: PoolClient) => client.on('error', onConnectionError));
  return pool;
}
