/** Reads from the table what was committed between two positions: the catch-up. */
import type { Query } from './database.ts';
import { type LogRow, type LogTable, tableName } from './logTable.ts';
import { bounds, type Position } from './position.ts';

/** Rows read at a time, of 8,000 bytes each at the most: 20 MB. */
export const PAGE_ROWS = 2_500;

/** One row as the trigger would have notified it, with what orders it. */
export type CommittedRow = [payload: string, xid: string, id: string];

/**
 * Where reading stands: first the stragglers (transactions that `from` saw running), then all that began later, both
 * along the index on (xid, id).
 */
export interface ReadCursor {
  readonly part: 'stragglers' | 'rest';
  readonly xid: string;
  readonly id: string;
}

/** A page of rows, and where the next one begins; undefined where there is none. */
export interface Page {
  readonly rows: CommittedRow[];
  readonly next: ReadCursor | undefined;
}

export const FIRST_PAGE: ReadCursor = { part: 'stragglers', xid: '0', id: '0' };

/**
 * The rows that `to` sees and `from` does not, a page at a time in the order (xid, id) within each part.
 *
 * They are the rows of transactions that ran when `from` was taken, or began after it, and had committed when `to` was
 * taken. As one query with OR, or with a lower bound beside the row comparison, PostgreSQL walks the whole index.
 */
export async function readPage(
  query: Query,
  log: LogTable<LogRow>,
  { from, to, cursor, deadlineMs }: { from: Position; to: Position; cursor: ReadCursor; deadlineMs: number },
): Promise<Page> {
  const after = [cursor.xid, cursor.id, PAGE_ROWS];
  if (cursor.part === 'stragglers') {
    const running = from.snapshot.split(':')[2];
    const rows = running
      ? await query<CommittedRow>(stragglersSql(log), [`{${running}}`, to.snapshot, ...after], deadlineMs)
      : [];
    const next = follow(cursor, rows) ?? { part: 'rest', xid: String(bounds(from.snapshot).xmax), id: '0' };
    return { rows, next };
  }
  const rows = await query<CommittedRow>(restSql(log), [to.snapshot, ...after], deadlineMs);
  return { rows, next: follow(cursor, rows) };
}

/**
 * The rows that a standby shows and `from` does not see, a page at a time in the order (xid, id). A standby can't tell
 * which transactions are running, so this reads from the oldest of them on, and its caller drops what it had before.
 */
export async function readStandbyPage(
  query: Query,
  log: LogTable<LogRow>,
  { from, cursor, deadlineMs }: { from: Position; cursor: ReadCursor | undefined; deadlineMs: number },
): Promise<Page> {
  const start: ReadCursor = cursor ?? { part: 'rest', xid: String(bounds(from.snapshot).xmin), id: '0' };
  const rows = await query<CommittedRow>(standbySql(log), [from.snapshot, start.xid, start.id, PAGE_ROWS], deadlineMs);
  return { rows, next: follow(start, rows) };
}

/** The rows of these ids, whole. */
export async function readRows(
  query: Query,
  log: LogTable<LogRow>,
  ids: number[],
  deadlineMs: number,
): Promise<string[]> {
  const rows = await query<[string]>(
    `SELECT row_to_json(log)::text FROM (SELECT ${columns(log)} FROM ${tableName(log)} WHERE id = ANY ($1::bigint[])) AS log`,
    [ids],
    deadlineMs,
  );
  return rows.map(([payload]) => payload);
}

function follow({ part }: ReadCursor, rows: CommittedRow[]): ReadCursor | undefined {
  if (rows.length < PAGE_ROWS) return undefined;
  const [, xid, id] = rows.at(-1)!;
  return { part, xid, id };
}

export const stragglersSql = (log: LogTable<LogRow>) =>
  pageSql(
    log,
    `xid = ANY ($1::xid8[])
      AND pg_visible_in_snapshot(xid, $2::pg_snapshot)
      AND (xid, id) > ($3::xid8, $4::bigint)`,
    '$5',
  );

export const restSql = (log: LogTable<LogRow>) =>
  pageSql(
    log,
    `(xid, id) > ($2::xid8, $3::bigint)
      AND xid < pg_snapshot_xmax($1::pg_snapshot)
      AND pg_visible_in_snapshot(xid, $1::pg_snapshot)`,
    '$4',
  );

const standbySql = (log: LogTable<LogRow>) =>
  pageSql(log, `(xid, id) > ($2::xid8, $3::bigint) AND NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)`, '$4');

/**
 * Each row as its notification: one of 8,000 bytes or more by its id alone, so that a page has a bound in bytes too. The
 * inner LIMIT keeps PostgreSQL from writing the row as JSON once for each mention of `payload`.
 */
function pageSql(log: LogTable<LogRow>, condition: string, limit: string): string {
  return `
  SELECT
    CASE WHEN octet_length(payload) < 8000 THEN payload ELSE format('{"id":%s,"truncated":true}', page.id) END,
    page.xid,
    page.id
  FROM (
    SELECT xid, id, (SELECT row_to_json(log)::text FROM (SELECT ${columns(log)}) AS log) AS payload
    FROM ${tableName(log)}
    WHERE ${condition}
    ORDER BY xid, id
    LIMIT ${limit}
  ) AS page
  ORDER BY page.xid, page.id`;
}

function columns(log: LogTable<LogRow>): string {
  return log.columns.map((column) => `"${column.replaceAll('"', '""')}"`).join(', ');
}
