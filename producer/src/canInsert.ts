/** The producer's readiness: can it insert signals now? */
import { createQuery, requireRights } from '@pg-signals/db';
import type { Pool } from 'pg';

const WRITABLE = `SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean`;

/**
 * @param timeoutMs to get a connection, and as long again for an answer.
 * @throws {Error} whose message says what keeps signals from being inserted.
 */
export async function canInsert(pool: Pool, timeoutMs: number): Promise<void> {
  const query = createQuery(pool, timeoutMs);
  const [row] = await query<[boolean, boolean]>(WRITABLE).catch((cause: Error) => {
    throw new Error(`The database does not answer: ${cause.message}`, { cause });
  });
  const [standby, readOnly] = row!;
  if (standby) throw new Error('The database is a standby, which takes no writes: connect to its primary.');
  if (readOnly) throw new Error('The database takes no writes from this user: default_transaction_read_only is on.');
  await requireRights(query, 'signals_producer');
}
