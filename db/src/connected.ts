/** One connection for the commands that set a database up, outside any pool. */
import pg from 'pg';
import { type Query, queryOn } from './query.ts';

const TIMEOUT_MS = 10_000;

/**
 * Connects, runs `work` and ends the connection.
 *
 * @param work gets the connection, and a `query` on it with a timeout of 10 s.
 */
export async function connected<T>(
  databaseUrl: string,
  work: (client: pg.Client, query: Query) => T | Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'pg-signals migrate',
    connectionTimeoutMillis: TIMEOUT_MS,
  });
  client.on('error', () => {}); // a lost connection also rejects the query in flight
  await client.connect();
  try {
    return await work(client, (text, values = [], timeoutMs = TIMEOUT_MS) => queryOn(client, text, values, timeoutMs));
  } finally {
    await client.end();
  }
}
