/** Reads from the table what was committed between two snapshots: the queries of the catch-up. */
import type { Query } from '@pg-signals/db';
import { columnsSql, type FeedRow, type TableColumns, tableSql } from './feedTable.ts';
import { requireServer, type Server, type Snapshot, STARTED_AT } from './snapshot.ts';

/** Rows read at a time, of 8,000 bytes each at most: 20 MB. */
export const PAGE_ROWS = 2_500;

/**
 * Pins what the trigger pins, for this statement alone: times in UTC, and doubles that read back to the same value. As a
 * condition it is checked once, before the first row.
 */
const PINNED = `(SELECT set_config('timezone', 'UTC', true) || set_config('extra_float_digits', '1', true)) IS NOT NULL`;

/** Stands between the rows of a page: a control character, which JSON holds only escaped (RFC 7464 uses the same one). */
const SEPARATOR = '\u001e';

/** Before the first id that a bigint can hold. */
const BEFORE_ALL = '-9223372036854775808';

/**
 * Where reading stands: first the stragglers (transactions that were running in the first snapshot), then all that began
 * later, both along the index on (xid, id).
 */
export interface ReadingPlace {
  readonly part: 'stragglers' | 'rest';
  readonly xid: string;
  readonly id: string;
}

/** A page of rows as the trigger would have notified them, and where the next one begins; undefined where there is none. */
export interface Page {
  readonly payloads: readonly string[];
  readonly next: ReadingPlace | undefined;
}

export const BEGINNING: ReadingPlace = { part: 'stragglers', xid: '0', id: BEFORE_ALL };

/** Reads rows of one table on one server; throws, as `requireServer` does, where the answer comes from another one. */
export interface Reader {
  readonly query: Query;
  readonly table: TableColumns;
  readonly server: Server;
  readonly timeoutMs: number;
}

/**
 * A page of the rows that `to` covers and `from` does not, in the order (xid, id) within each part, after `place`.
 *
 * They are the rows of transactions that were running when `from` was taken, or began after it, and had committed when `to`
 * was taken. As one query with OR, or with a lower bound beside the row comparison, PostgreSQL walks the whole index.
 */
export async function readPage(
  reader: Reader,
  { from, to, place }: { from: Snapshot; to: Snapshot; place: ReadingPlace },
): Promise<Page> {
  const { part, xid, id } = place;
  if (part === 'rest') return readOne(reader, part, restSql(reader.table), [to.text, xid, id, PAGE_ROWS]);
  const rest: ReadingPlace = { part: 'rest', xid: String(from.xmax), id: BEFORE_ALL };
  if (from.running.size === 0) return { payloads: [], next: rest };
  const values = [`{${[...from.running].join()}}`, to.text, xid, id, PAGE_ROWS];
  const page = await readOne(reader, part, stragglersSql(reader.table), values);
  return { ...page, next: page.next ?? rest };
}

/**
 * A page of the rows that a standby shows and `from` does not cover, in the order (xid, id), after `place`. A standby does
 * not know which transactions are running, so this reads from the oldest of them on, and its caller drops what it had
 * before.
 */
export async function readStandbyPage(
  reader: Reader,
  { from, place }: { from: Snapshot; place: ReadingPlace },
): Promise<Page> {
  const { part, xid, id } = place === BEGINNING ? { ...place, xid: String(from.xmin) } : place;
  return readOne(reader, part, standbySql(reader.table), [from.text, xid, id, PAGE_ROWS]);
}

/** The rows that have these ids now, in no order. */
export async function readById(reader: Reader, ids: readonly number[]): Promise<readonly string[]> {
  const sql = pageSql(reader.table, 'id = ANY ($1::bigint[])', '$2');
  return (await readOne(reader, 'rest', sql, [ids, ids.length])).payloads;
}

async function readOne(
  { query, server, timeoutMs }: Reader,
  part: ReadingPlace['part'],
  sql: string,
  values: unknown[],
): Promise<Page> {
  type Row = [startedAt: string, text: string | null, xid: string | null, id: string | null];
  const [row] = await query<Row>(sql, values, timeoutMs);
  const [startedAt, text, xid, id] = row!;
  requireServer(server, startedAt);
  const payloads = text === null ? [] : text.split(SEPARATOR);
  return { payloads, next: xid === null || id === null ? undefined : { part, xid, id } };
}

/** A row that was asked for by its id. Without `bytes` it is not there; without `payload` alone it is too large. */
export interface WholeRow {
  readonly bytes: number | undefined;
  readonly payload: string | undefined;
}

/** These rows, whole, as JSON, in this order: as many as fit into `maxBytes` together. */
export async function readRows(
  { query, table, server, timeoutMs }: Reader,
  rows: readonly FeedRow[],
  maxBytes: number,
): Promise<WholeRow[]> {
  type Answer = [startedAt: string, bytes: number | null, payload: string | null];
  const answers = await query<Answer>(
    `SELECT
       ${STARTED_AT},
       octet_length(payload),
       CASE WHEN sum(octet_length(payload)) OVER (ORDER BY place) <= $3::int THEN payload END
     FROM unnest($1::bigint[], $2::xid8[]) WITH ORDINALITY AS wanted (id, xid, place)
     LEFT JOIN LATERAL (
       SELECT row_to_json(feed_row)::text AS payload
       FROM (
         SELECT ${columnsSql(table)}
         FROM ${tableSql(table)} AS rows
         WHERE rows.id = wanted.id AND rows.xid = wanted.xid AND ${PINNED}
       ) AS feed_row
       OFFSET 0 -- keeps the planner from writing each row's JSON three times
     ) AS found ON true
     ORDER BY place`,
    [rows.map(({ id }) => id), rows.map(({ xid }) => xid), maxBytes],
    timeoutMs,
  );
  return answers.map(([startedAt, bytes, payload]) => {
    requireServer(server, startedAt);
    return { bytes: bytes ?? undefined, payload: payload ?? undefined };
  });
}

export const stragglersSql = (table: TableColumns) =>
  pageSql(
    table,
    `xid = ANY ($1::xid8[])
      AND pg_visible_in_snapshot(xid, $2::pg_snapshot)
      AND (xid, id) > ($3::xid8, $4::bigint)`,
    '$5',
  );

export const restSql = (table: TableColumns) =>
  pageSql(
    table,
    `(xid, id) > ($2::xid8, $3::bigint)
      AND xid < pg_snapshot_xmax($1::pg_snapshot)
      AND pg_visible_in_snapshot(xid, $1::pg_snapshot)`,
    '$4',
  );

const standbySql = (table: TableColumns) =>
  pageSql(table, `(xid, id) > ($2::xid8, $3::bigint) AND NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)`, '$4');

/**
 * Each row as its notification: one of 8,000 bytes or more without its content, so that a page has a bound in bytes too. The
 * inner LIMIT keeps PostgreSQL from writing the row as JSON once for each mention of `payload`.
 *
 * A page comes as one value, which the driver reads in half the time of 2,500 rows. Beside it is where the page ends, NULL
 * unless it is full.
 */
function pageSql(table: TableColumns, condition: string, limit: string): string {
  return `
  SELECT
    ${STARTED_AT},
    string_agg(
      CASE
        WHEN octet_length(payload) < 8000 THEN payload
        ELSE format('{"id":%s,"xid":"%s","truncated":true}', page.id, page.xid)
      END,
      chr(${SEPARATOR.charCodeAt(0)})
    ),
    (array_agg(page.xid))[${limit}::int],
    (array_agg(page.id))[${limit}::int]
  FROM (
    SELECT xid, id, (SELECT row_to_json(feed_row)::text FROM (SELECT ${columnsSql(table)}) AS feed_row) AS payload
    FROM ${tableSql(table)}
    WHERE ${condition}
      AND ${PINNED}
    ORDER BY xid, id
    LIMIT ${limit}::int
  ) AS page`;
}
