/** Finds out which rows of a refused insert the database refuses. */
import type { Pool, PoolClient } from 'pg';
import { INSERT, insertColumns } from './insertSignals.ts';
import type { FieldError } from './newSignal.ts';
import { isRefusal } from './publishError.ts';
import type { SignalRow } from './signalRow.ts';

/**
 * Tries the rows by halves in one transaction that is rolled back: nothing is written, nobody is notified.
 *
 * @returns a pointer to each row that is refused, and why.
 * @throws {pg.DatabaseError} when the database refuses more than rows.
 */
export async function refusedRows(pool: Pool, rows: readonly SignalRow[], timeoutMs: number): Promise<FieldError[]> {
  const client = await pool.connect();
  const ignore = () => {}; // the query in flight rejects as well
  client.on('error', ignore);
  // Its connection is closed at the deadline, which the query in flight then rejects with.
  let broken = false;
  const timer = setTimeout(() => {
    broken = true;
    client.release(true);
  }, timeoutMs);
  try {
    await client.query('BEGIN');
    const refused = await refusedAmong(client, rows, 0);
    await client.query('ROLLBACK');
    return refused;
  } catch (error) {
    if (!broken) client.release(true);
    broken = true;
    throw error;
  } finally {
    clearTimeout(timer);
    if (!broken) client.release();
    client.off('error', ignore);
  }
}

async function refusedAmong(client: PoolClient, rows: readonly SignalRow[], first: number): Promise<FieldError[]> {
  await client.query('SAVEPOINT before');
  try {
    await client.query(INSERT, insertColumns(rows));
    return [];
  } catch (error) {
    if (!isRefusal(error)) throw error;
    if (rows.length === 1) return [{ pointer: `/${first}`, detail: (error as Error).message }];
  } finally {
    await client.query('ROLLBACK TO SAVEPOINT before');
  }
  const middle = rows.length >> 1;
  return [
    ...(await refusedAmong(client, rows.slice(0, middle), first)),
    ...(await refusedAmong(client, rows.slice(middle), first + middle)),
  ];
}
