/** The one statement that writes signals. */
import { type Signal, toUtc } from '@pg-signals/db';
import type { ClientBase, Pool } from 'pg';
import type { NewSignal } from './signalInput.ts';

const SQL = `
  INSERT INTO signals ("timestamp", signal_name, signal_value, attributes)
  SELECT coalesce("timestamp", now()), signal_name, signal_value, coalesce(attributes, '{}')
  FROM unnest($1::timestamptz[], $2::text[], $3::double precision[], $4::jsonb[])
    WITH ORDINALITY AS new ("timestamp", signal_name, signal_value, attributes, position)
  ORDER BY position
  RETURNING id, "timestamp"::text, attributes`;

/**
 * Inserts all signals in one transaction; resolves after its commit with their rows, in the order given.
 *
 * @throws {pg.DatabaseError} when a row is refused; then none is in.
 */
export async function insertSignals(
  pool: Pick<Pool | ClientBase, 'query'>,
  signals: readonly NewSignal[],
): Promise<Signal[]> {
  const { rows } = await pool.query<{ id: string; timestamp: string; attributes: Signal['attributes'] }>(SQL, [
    signals.map((signal) => signal.timestamp ?? null),
    signals.map((signal) => signal.signal_name),
    signals.map((signal) => signal.signal_value),
    signals.map((signal) => (signal.attributes ? JSON.stringify(signal.attributes) : null)),
  ]);
  return rows.map((row, index) => ({
    id: Number(row.id),
    timestamp: toUtc(row.timestamp),
    signal_name: signals[index]!.signal_name,
    signal_value: signals[index]!.signal_value,
    attributes: row.attributes,
  }));
}
