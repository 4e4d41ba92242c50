/** Writes the signals that consumers are measured with. */
import type pg from 'pg';

/** The notifications that wait for each consumer. */
export const SIGNALS = Number(process.env.SIGNALS ?? 200_000);
/** Every consumer receives so many before it is measured, in each way that is measured: then its code is compiled. */
export const WARM_UP = 50_000;
export const PER_COMMIT = 1_000;

/** Inserts `rows` signals, `perCommit` in each transaction. The last one's name is `last`. */
export async function write(client: pg.Client, rows: number, { perCommit = rows, last = 'last' } = {}): Promise<void> {
  for (let left = rows - 1; left > 0; left -= perCommit) await insert(client, Math.min(perCommit, left), 'test_signal');
  await insert(client, 1, last);
}

/** Inserts `rows` signals in one transaction. */
export async function insert(client: pg.Client, rows: number, name: string): Promise<void> {
  const sql = 'INSERT INTO signals (signal_name, signal_value) SELECT $1, random() FROM generate_series(1, $2::int)';
  await client.query(sql, [name, rows]);
}
