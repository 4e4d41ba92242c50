/** The producer's readiness: can it insert signals now? */
import { createQuery, NoAnswerError, NotConnectedError, type Query, requireRights } from '@pg-signals/db';
import type { Pool } from 'pg';

const STATE = `
  SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean, pg_notification_queue_usage()`;

/**
 * True where the sequence was set back behind ids that are taken. The rows are those of a moment before the sequence is
 * read, so that a signal inserted meanwhile is no such id.
 */
const NEXT_IDS_TAKEN = `
  SELECT EXISTS (SELECT FROM public.signals WHERE id > last AND id <= last + 1000)
  FROM coalesce(pg_sequence_last_value('public.signals_id_seq'), 0) AS last`;

/** Before version 17 a queue counts as full up to 32 of its million pages below its end. */
const FULL = 0.999;

/**
 * @param timeoutMs to get a connection, and as long again for an answer.
 * @throws {Error} whose message says what keeps signals from being inserted; it names no host and no user.
 */
export async function canInsert(pool: Pool, timeoutMs: number): Promise<void> {
  const ask = createQuery(pool, timeoutMs);
  const query: Query = (...question) => ask<never>(...question).catch(withholdAddress);
  const [row] = await query<[boolean, boolean, number]>(STATE);
  const [standby, readOnly, queueUsage] = row!;
  if (standby) throw new Error('The database is a standby, which takes no writes: connect to its primary.');
  if (readOnly) throw new Error('The database takes no writes from this user: default_transaction_read_only is on.');
  if (queueUsage > FULL) {
    throw new Error('The NOTIFY queue is full: end the session that listens in a transaction left open.');
  }
  await requireRights(query, 'signals_producer');
  const [ids] = await query<[boolean]>(NEXT_IDS_TAKEN);
  if (ids![0]) {
    throw new Error('The sequence of signals.id gives no free id: setval it to the highest id in the table.');
  }
}

/** What the network or the server said of a connection names its address or user, which is not for everyone. */
function withholdAddress(cause: unknown): never {
  if (!(cause instanceof NotConnectedError || cause instanceof NoAnswerError)) throw cause;
  throw new Error('The database does not answer: the log says why.', { cause });
}
