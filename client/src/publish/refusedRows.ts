/** Finds out which rows of a refused insert the database refuses. */
import { withConnection } from '@pg-signals/db';
import type { Pool } from 'pg';
import { inHalves } from './inHalves.ts';
import { INSERT, insertColumns } from './insertSignals.ts';
import type { FieldError } from './newSignal.ts';
import { isRefusal, toPublishError } from './publishError.ts';
import type { SignalRow } from './signalRow.ts';

/**
 * Tries the rows in halves, in one transaction that is rolled back: nothing is written and nothing is notified.
 *
 * @returns a pointer to each refused row, with the database's reason.
 * @throws what `withConnection` throws, also where the database refuses more than rows.
 */
export function refusedRows(pool: Pool, rows: readonly SignalRow[], timeoutMs: number): Promise<FieldError[]> {
  return withConnection(pool, timeoutMs, async (client) => {
    const refused: FieldError[] = [];
    await client.query('BEGIN');
    try {
      await client.query('SAVEPOINT empty');
      await inHalves(rows, {
        insert: (part) =>
          client.query(INSERT, insertColumns(part)).finally(() => client.query('ROLLBACK TO SAVEPOINT empty')),
        isRefusal,
        failed(_row, error, index) {
          if (!isRefusal(error)) throw error;
          refused.push({ pointer: `/${index}`, detail: toPublishError(error).message });
        },
      });
    } finally {
      // A connection goes back into the pool after an ERROR too, so the transaction ends here in either case.
      await client.query('ROLLBACK');
    }
    return refused;
  });
}
