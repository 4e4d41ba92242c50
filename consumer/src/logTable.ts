/** What a feed has to know of the table that it follows. */
import { parseSignal, SIGNAL_COLUMNS, SIGNALS_CHANNEL, type Signal } from '@pg-signals/db';
import pg from 'pg';

/** The least that every row shows of itself. */
export interface LogRow {
  readonly id: number;
}

/** Instead of a row whose JSON does not fit into a notification. */
export interface TruncatedRow extends LogRow {
  readonly truncated: true;
}

/**
 * A table that is only inserted into, with a trigger that notifies `channel` with each row's JSON.
 *
 * It has a column `id` (bigint, growing), a column `xid` (xid8, default `pg_current_xact_id()`) and an index on
 * `(xid, id)`; the trigger notifies `{"id":…,"truncated":true}` for a row of 8,000 bytes or more.
 */
export interface LogTable<Row extends LogRow> {
  /** Name of the table, with its schema where it needs one: `audit.events`. */
  readonly table: string;
  readonly channel: string;
  /** The columns in the payload, `id` among them. */
  readonly columns: readonly string[];
  /** Reads a payload; throws where it is no row (anyone may NOTIFY the channel). */
  readonly parse: (payload: string) => Row | TruncatedRow;
}

export const signalsTable: LogTable<Signal> = {
  table: 'signals',
  channel: SIGNALS_CHANNEL,
  columns: SIGNAL_COLUMNS,
  parse: parseSignal,
};

/** The table's name as SQL. */
export function tableName({ table }: Pick<LogTable<LogRow>, 'table'>): string {
  return table.split('.').map(pg.escapeIdentifier).join('.');
}
