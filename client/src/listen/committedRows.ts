/** Reads from the table what was committed between two snapshots: the queries of the catch-up. */
import type { Query } from '@pg-signals/db';
import pg from 'pg';
import { columnsSql, type FeedRow, type TableColumns, tableSql } from './feedTable.ts';
import { requireServer, type Server, type Snapshot, STARTED_AT } from './snapshot.ts';

/** Rows read at a time, of 8,000 bytes each at most: 20 MB. */
export const PAGE_ROWS = 2_500;

/**
 * For the statement after it alone, since both are one transaction: what the trigger pins (times in UTC, doubles that read
 * back to the same value), and a plan along the index on (xid, id). For a table without fresh statistics PostgreSQL expects few
 * rows past a place, and would sort all of them for each page.
 */
const SETTINGS = Object.entries({
  timezone: 'UTC',
  extra_float_digits: '1',
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_sort: 'off',
  max_parallel_workers_per_gather: '0',
  jit: 'off',
});
const SET = `SELECT ${SETTINGS.map(([name, value]) => `set_config('${name}', '${value}', true)`).join(', ')};`;

/** Stands between the rows of a page: a control character, which JSON holds only escaped (RFC 7464 uses the same one). */
const SEPARATOR = '\u001e';

/** Before the first id that a bigint can hold. */
const BEFORE_ALL = '-9223372036854775808';

/** Where reading stands: after this row, in the order (xid, id). */
export interface ReadingPlace {
  readonly xid: number;
  /** Not a number, so that it can stand before and after all. */
  readonly id: string;
}

/** A page of rows as the trigger would have notified them, and where the next one begins; undefined where there is none. */
export interface Page {
  readonly payloads: readonly string[];
  readonly next: ReadingPlace | undefined;
}

/** Before all rows of a transaction and of those after it. */
const before = (xid: number): ReadingPlace => ({ xid, id: BEFORE_ALL });

export const BEGINNING = before(0);

/** Reads rows of one table on one server; throws, as `requireServer` does, where the answer comes from another one. */
export interface Reader {
  readonly query: Query;
  readonly table: TableColumns;
  readonly server: Server;
  readonly timeoutMs: number;
  /** Of a page, only the rows for which this SQL holds. */
  readonly where?: string | undefined;
}

/**
 * A page of the rows that `to` covers and `from` does not, in the order (xid, id), after `place`.
 *
 * They are the rows of the stragglers (transactions that were running when `from` was taken, and over when `to` was), and of
 * all that began later and were over by then. Each straggler is a range of the index, and so are the others together.
 */
export async function readPage(
  reader: Reader,
  { from, to, place }: { from: Snapshot; to: Snapshot; place: ReadingPlace },
): Promise<Page> {
  const isVisible = `pg_visible_in_snapshot(xid, ${literal(to.text)}::pg_snapshot)`;
  const straggler = Math.min(...[...from.running].filter((xid) => xid >= place.xid && to.covers(xid)));
  if (!Number.isFinite(straggler)) {
    const start = place.xid >= from.xmax ? place : before(from.xmax);
    return readOne(reader, `${isAfter(start)} AND xid < '${to.xmax}'::xid8 AND ${isVisible}`);
  }
  const start = place.xid === straggler ? place : before(straggler);
  const page = await readOne(reader, `${isAfter(start)} AND xid < '${straggler + 1}'::xid8 AND ${isVisible}`);
  return { ...page, next: page.next ?? before(straggler + 1) };
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
  const start = place === BEGINNING ? before(from.xmin) : place;
  return readOne(reader, `${isAfter(start)} AND NOT pg_visible_in_snapshot(xid, ${literal(from.text)}::pg_snapshot)`);
}

const literal = pg.escapeLiteral;
const isAfter = ({ xid, id }: ReadingPlace) => `(xid, id) > ('${xid}'::xid8, '${id}'::bigint)`;

async function readOne({ query, table, server, timeoutMs, where }: Reader, condition: string): Promise<Page> {
  type Row = [startedAt: string, text: string | null, xid: string | null, id: string | null];
  const sql = pageSql(table, where === undefined ? condition : `${condition} AND ${where}`);
  const [row] = await query<Row>(sql, [], timeoutMs);
  const [startedAt, text, xid, id] = row!;
  requireServer(server, startedAt);
  const payloads = text === null ? [] : text.split(SEPARATOR);
  return { payloads, next: xid === null || id === null ? undefined : { xid: Number(xid), id } };
}

/** A row that was asked for by its id. Without `bytes` it is not there; without `payload` alone it is too large. */
export interface WholeRow {
  readonly bytes: number | undefined;
  readonly payload: string | undefined;
}

/** These rows, whole, as JSON, in this order: as many as fit into `maxBytes` together. Without an xid, whatever has the id. */
export async function readRows(
  { query, table, server, timeoutMs }: Reader,
  rows: readonly (Pick<FeedRow, 'id'> & Partial<FeedRow>)[],
  maxBytes: number,
): Promise<WholeRow[]> {
  type Answer = [startedAt: string, bytes: number | null, payload: string | null];
  if (rows.length === 0) return [];
  const wanted = rows.map(({ id, xid }, place) => `(${id}, ${xid ? `'${xid}'` : 'NULL'}::xid8, ${place})`);
  const answers = await query<Answer>(
    `${SET}
     SELECT
       ${STARTED_AT},
       octet_length(payload),
       CASE WHEN sum(octet_length(payload)) OVER (ORDER BY place) <= ${maxBytes} THEN payload END
     FROM (VALUES ${wanted.join()}) AS wanted (id, xid, place)
     LEFT JOIN LATERAL (
       SELECT row_to_json(feed_row)::text AS payload
       FROM (
         SELECT ${columnsSql(table)}
         FROM ${tableSql(table)} AS rows
         WHERE rows.id = wanted.id AND (wanted.xid IS NULL OR rows.xid = wanted.xid)
       ) AS feed_row
       OFFSET 0 -- keeps the planner from writing each row's JSON three times
     ) AS found ON true
     ORDER BY place`,
    [],
    timeoutMs,
  );
  return answers.map(([startedAt, bytes, payload]) => {
    requireServer(server, startedAt);
    return { bytes: bytes ?? undefined, payload: payload ?? undefined };
  });
}

/**
 * Each row as its notification: one of 8,000 bytes or more without its content, so that a page has a bound in bytes too. The
 * inner LIMIT keeps PostgreSQL from writing the row as JSON once for each mention of `payload`.
 *
 * A page comes as one value, which the driver reads in half the time of 2,500 rows. Beside it is where the page ends, NULL
 * unless it is full.
 */
function pageSql(table: TableColumns, condition: string): string {
  return `
  ${SET}
  SELECT
    ${STARTED_AT},
    string_agg(
      CASE
        WHEN octet_length(payload) < 8000 THEN payload
        ELSE format('{"id":%s,"xid":"%s","truncated":true}', page.id, page.xid)
      END,
      chr(${SEPARATOR.charCodeAt(0)})
    ),
    (array_agg(page.xid))[${PAGE_ROWS}],
    (array_agg(page.id))[${PAGE_ROWS}]
  FROM (
    SELECT xid, id, (SELECT row_to_json(feed_row)::text FROM (SELECT ${columnsSql(table)}) AS feed_row) AS payload
    FROM ${tableSql(table)}
    WHERE ${condition}
    ORDER BY xid, id
    LIMIT ${PAGE_ROWS}
  ) AS page`;
}
