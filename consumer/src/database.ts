/** Queries that always end: a server that went silent fails them by a deadline. */
import type { Pool, PoolClient, QueryArrayConfig } from 'pg';

/** Resolves with rows, each an array of its columns. Rejects by the deadline at the latest. */
export type Query = <Row extends unknown[]>(text: string, values?: unknown[], deadlineMs?: number) => Promise<Row[]>;

/** Runs each query on a connection of the pool; one that failed is thrown away, since its state is unknown. */
export function createQuery(pool: Pool, defaultDeadlineMs: number): Query {
  return async <Row extends unknown[]>(text: string, values: unknown[] = [], deadlineMs = defaultDeadlineMs) => {
    const client = await acquire(pool, deadlineMs);
    try {
      const rows = await queryOn<Row>(client, text, values, deadlineMs);
      client.release();
      return rows;
    } catch (error) {
      discard(client);
      throw error;
    }
  };
}

export async function queryOn<Row extends unknown[]>(
  client: PoolClient,
  text: string,
  values: unknown[],
  deadlineMs: number,
): Promise<Row[]> {
  // pg takes query_timeout for one query as well as for all; its types know the latter alone.
  const config = { text, values, rowMode: 'array', query_timeout: deadlineMs } as QueryArrayConfig;
  return (await client.query<Row>(config)).rows;
}

/** A connection of the pool; one that comes after the deadline goes back by itself. */
export async function acquire(pool: Pool, deadlineMs: number): Promise<PoolClient> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new Error(`no database connection within ${deadlineMs} ms`));
    connecting.then(
      (client) => client.release(),
      () => {},
    );
  }, deadlineMs);
  const connecting = pool.connect();
  try {
    return await Promise.race([connecting, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Ends the connections that lie idle in the pool. What broke one of them may have broken all, and each would cost the next
 * query its whole deadline to find that out.
 */
export async function discardIdle(pool: Pool): Promise<void> {
  for (let idle = pool.idleCount; idle > 0; idle--) discard(await pool.connect());
}

/** Ends a connection without waiting for the other side, which may be gone. */
export function discard(client: PoolClient): void {
  client.release(true);
  client.connection.stream.destroy();
}
