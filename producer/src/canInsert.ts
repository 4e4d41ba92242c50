/** The producer's readiness: can it insert signals now? */
import { queryWithin } from '@pg-signals/db';
import type { Pool } from 'pg';

const PRIVILEGES = `
  SELECT
    pg_is_in_recovery(),
    current_setting('transaction_read_only')::boolean,
    has_table_privilege(to_regclass('signals'), 'INSERT'),
    to_regclass('signal_keys') IS NOT NULL`;

/**
 * @param timeoutMs to get a connection, and as long again for the answer.
 * @throws {Error} whose message says what keeps signals from being inserted.
 */
export async function canInsert(pool: Pool, timeoutMs: number): Promise<void> {
  const query = { text: PRIVILEGES, rowMode: 'array' } as const;
  const [row] = await queryWithin<[boolean, boolean, boolean | null, boolean]>(pool, query, timeoutMs).catch(
    (cause: Error) => {
      throw new Error(`The database does not answer: ${cause.message}`, { cause });
    },
  );
  const [standby, readOnly, granted, hasKeys] = row!;
  if (standby) throw new Error('The database is a standby, which takes no writes: connect to its primary.');
  if (readOnly) throw new Error('The database takes no writes from this user: default_transaction_read_only is on.');
  if (granted === null) throw new Error('The table signals is missing: run npm run migrate.');
  if (!hasKeys) throw new Error('The table signal_keys is missing: run npm run migrate.');
  if (!granted) throw new Error('The database user may not insert into signals: GRANT INSERT ON signals.');
}
