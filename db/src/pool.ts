/** Creates the pools that all our connections to PostgreSQL come from. */
import pg, { type PoolClient, type PoolConfig } from 'pg';
import PgPool from 'pg-pool';

export interface PoolOptions extends PoolConfig {
  connectionString: string;
  /** The name of the connections in `pg_stat_activity`. */
  application_name: string;
  /** Called with each error of a connection, idle or in use. The pool replaces the connection by itself. */
  onConnectionError?: (error: Error) => void;
}

/**
 * A pool that connects at its first use. Its connections are kept alive by TCP and have 5 s to open. An error of a
 * connection, idle or in use, is reported to `onConnectionError` and never ends the process.
 */
export function createPool({ onConnectionError = () => {}, ...config }: PoolOptions): pg.Pool {
  const pool = new PgPool<pg.Client>({
    keepAlive: true,
    // Linux sends its first probe after two hours by default; a firewall forgets a silent connection after minutes.
    keepAliveInitialDelayMillis: 30_000,
    connectionTimeoutMillis: 5_000,
    Client: pg.Client,
    ...config,
    // pg's own `Pool` is this class with `Client` filled in, but the types of the two packages do not say so.
  } as PgPool.Config<pg.Client>) as unknown as pg.Pool;
  // pg-pool handles the errors of idle clients only, and emits them again here; either without a handler ends the process.
  pool.on('error', () => {});
  pool.on('connect', (client: PoolClient) => client.on('error', onConnectionError));
  return pool;
}
