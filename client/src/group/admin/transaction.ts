/** One transaction of someone who looks after groups: all of it or nothing, within a timeout. */
import { type Query, withConnection } from '@pg-signals/db';
import type { Pool } from 'pg';
import { GroupError } from './groupError.ts';

/** Counting a million rows takes a second or two; finding a moment in a log without an index on it, minutes. */
const TIMEOUT_MS = 600_000;

/** READ COMMITTED, whatever the database's default is: what is read after the wait for a lock is what is there then. */
export const changing = <T>(pool: Pool, work: (query: Query) => Promise<T>): Promise<T> =>
  inTransaction(pool, 'BEGIN ISOLATION LEVEL READ COMMITTED', work);

/** All that is read is of one moment, so that cursors and rows fit together. */
export const reading = <T>(pool: Pool, work: (query: Query) => Promise<T>, timeoutMs?: number): Promise<T> =>
  inTransaction(pool, 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY', work, timeoutMs);

async function inTransaction<T>(
  pool: Pool,
  begin: string,
  work: (query: Query) => Promise<T>,
  timeoutMs = TIMEOUT_MS,
): Promise<T> {
  const outcome = await withConnection(pool, timeoutMs, async (client) => {
    const query: Query = async <Row extends unknown[]>(text: string, values: unknown[] = []) =>
      (await client.query<Row>({ text, values, rowMode: 'array' })).rows;
    await client.query(begin);
    try {
      const done = await work(query);
      await client.query('COMMIT');
      return { done };
    } catch (error) {
      await client.query('ROLLBACK');
      // To withConnection an error that is no answer of the server's means that the connection broke.
      if (error instanceof GroupError) return { error };
      throw error;
    }
  });
  if ('error' in outcome) throw outcome.error;
  return outcome.done;
}
