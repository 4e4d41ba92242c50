/** What a feed has to know of the table that it follows. */
import { parseSignal, SIGNAL_COLUMNS, SIGNALS_CHANNEL, type Signal } from '@pg-signals/db';
import pg from 'pg';

/** The least that every row shows of itself. */
export interface FeedRow {
  /** Unique in its table: a JavaScript number, exact up to 2^53 - 1. */
  readonly id: number;
  /** The transaction that wrote the row, as PostgreSQL writes an xid8 in JSON: digits in a string. */
  readonly xid: string;
}

/** Comes instead of a row whose JSON does not fit into a notification. */
export interface TruncatedRow extends FeedRow {
  readonly truncated: true;
}

/** Where a table is, and what of it is read. */
export interface TableColumns {
  /** Name of the table, with its schema where it needs one: `audit.events`. */
  readonly table: string;
  /** The columns of a row, `id` and `xid` among them. */
  readonly columns: readonly string[];
}

/**
 * A table that is only inserted into, with a trigger that notifies `channel` of each row as JSON.
 *
 * It has a column `id` (bigint, growing), a column `xid` (xid8, default `pg_current_xact_id()`) and an index on
 * `(xid, id)`. The JSON has all `columns`; for a row of 8,000 bytes or more the trigger notifies
 * `{"id":…,"xid":"…","truncated":true}`.
 */
export interface FeedTable<Row extends FeedRow> extends TableColumns {
  readonly channel: string;
  /**
   * Reads a payload; throws where it is no row (anyone may NOTIFY the channel). A row that was notified and is read once more
   * must come out equal, or it comes twice: let the trigger pin the settings that change how a value is written.
   */
  readonly parse: (payload: string) => Row | TruncatedRow;
}

export const signalsTable: FeedTable<Signal> = {
  table: 'public.signals',
  channel: SIGNALS_CHANNEL,
  columns: SIGNAL_COLUMNS,
  parse: parseSignal,
};

/** The table's name as SQL. */
export function tableSql({ table }: TableColumns): string {
  return table.split('.').map(pg.escapeIdentifier).join('.');
}

/** The columns as SQL. */
export function columnsSql({ columns }: TableColumns): string {
  return columns.map(pg.escapeIdentifier).join(', ');
}
