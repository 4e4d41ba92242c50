/** Counts the rows that a group has still to handle: those of its table that its cursors do not cover. */
import type { Query } from '@pg-signals/db';
import pg from 'pg';
import { tableSql } from '../../listen/feedTable.ts';
import { Lanes } from '../lanes.ts';
import type { StoredCursor } from '../storedCursor.ts';

/** Rows read for one snapshot at most: half a second of the server's time, and with an order key four. */
export const LAG_BOUND = 1_000_000;

/** How far a lane, or a group, is behind. */
export interface Lag {
  readonly lag_rows: number;
  /** True where reading stopped at its bound: there are at least `lag_rows`. */
  readonly lag_at_least: boolean;
  /** How long ago the oldest cursor with such rows was taken; 0 without any. */
  readonly lag_seconds: number;
}

/** What says how the rows of a group are divided. */
export interface GroupShape {
  readonly feed: string;
  readonly lanes: number;
  readonly order: string | null;
}

/**
 * The lag of each lane, by its number, as of the transaction's snapshot; undefined where the table is gone.
 *
 * @param cursors all of a group; a lane is in one of them.
 * @param now in ms since 1970.
 * @param bound rows read at most for each distinct snapshot.
 */
export async function lagOfLanes(
  query: Query,
  group: GroupShape,
  cursors: readonly StoredCursor[],
  now: number,
  bound = LAG_BOUND,
): Promise<readonly Lag[] | undefined> {
  const table = tableSql({ table: group.feed, columns: [] });
  const [found] = await query<[boolean]>('SELECT to_regclass($1) IS NOT NULL', [table]);
  if (!found![0]) return undefined;
  const lanes = new Lanes(group.lanes, group.order ?? undefined);
  const lags: Lag[] = [];
  // What differs in nothing but its lanes is read once: lanes that were taken over together, say.
  const alike = Object.groupBy(cursors, ({ at, places = [] }) => JSON.stringify([at, places]));
  for (const cursorsAlike of Object.values(alike)) {
    const counts = await countBeyond(query, { table, lanes, cursors: cursorsAlike!, bound });
    const lag_at_least = counts.total > bound;
    for (const [index, cursor] of cursorsAlike!.entries()) {
      for (const lane of cursor.lanes) {
        const lag_rows = counts.rowsOf(BEYOND, lane) + counts.rowsOf(index, lane);
        const isBehind = lag_rows > 0 || lag_at_least;
        const lag_seconds = isBehind ? Math.max(0, (now - cursor.takenAt) / 1_000) : 0;
        lags[lane] = { lag_rows, lag_at_least, lag_seconds };
      }
    }
  }
  return lags;
}

/** For the rest of the transaction: the ranges of the index are read, and no further than the bound. */
export async function planLag(query: Query): Promise<void> {
  await query(`SELECT set_config('jit', 'off', true),
    set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true)`);
}

/** The lag of lanes together. */
export function sumOf(lags: readonly Lag[]): Lag {
  return {
    lag_rows: lags.reduce((sum, { lag_rows }) => sum + lag_rows, 0),
    lag_at_least: lags.some(({ lag_at_least }) => lag_at_least),
    lag_seconds: lags.reduce((most, { lag_seconds }) => Math.max(most, lag_seconds), 0),
  };
}

interface CountOptions {
  /** As SQL. */
  table: string;
  lanes: Lanes;
  /** With the same `at` and `places`. */
  cursors: readonly StoredCursor[];
  bound: number;
}

/** Stands where a pending row has the index of its cursor: when lanes are divided, each part keeps the pending rows of all. */
const BEYOND = -1;

/**
 * Rows by lane, those of lanes that are in none of these cursors too: they are read all the same, and count for the bound.
 *
 * The rows beyond a snapshot are those of the transactions that it lists as running and of all that begin with its xmax: each
 * is a range of the index on (xid, id).
 */
async function countBeyond(query: Query, { table, lanes, cursors, bound }: CountOptions) {
  const { at, places = [] } = cursors[0]!;
  const handled = cursors.flatMap((cursor) => cursor.handled ?? []);
  const pending = cursors.flatMap((cursor, index) => (cursor.pending ?? []).map((row) => [...row, index] as const));
  const { lane, value } = lanes.laneSql();
  const columns = ['id', 'xid', ...(lanes.column === undefined ? [] : [lanes.column])];
  const each = [...new Set(columns)].map((column) => `feed.${pg.escapeIdentifier(column)}`).join(', ');
  const rows = await query<[cursor: number, lane: number | null, value: unknown, count: number]>(
    `SELECT cursor, lane, value, count(*)::float8
     FROM (
       SELECT cursor, ${lane} AS lane, ${value} AS value
       FROM (
         SELECT ${BEYOND} AS cursor, beyond.*
         FROM (
           SELECT ${each} FROM ${table} AS feed WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot)))
           UNION ALL
           SELECT ${each} FROM ${table} AS feed WHERE xid >= pg_snapshot_xmax($1::pg_snapshot)
         ) AS beyond
         WHERE NOT EXISTS (
           SELECT FROM unnest($2::xid8[], $3::bigint[]) AS place (xid, id)
           WHERE place.xid = beyond.xid AND beyond.id <= place.id
         )
         AND NOT EXISTS (
           SELECT FROM unnest($4::xid8[], $5::bigint[]) AS handled (xid, id)
           WHERE handled.xid = beyond.xid AND handled.id = beyond.id
         )
         UNION ALL
         SELECT pending.cursor, ${each}
         FROM unnest($6::xid8[], $7::bigint[], $8::int[]) AS pending (xid, id, cursor)
         JOIN ${table} AS feed ON feed.xid = pending.xid AND feed.id = pending.id
         LIMIT $9
       ) AS uncovered
     ) AS placed
     GROUP BY cursor, lane, value`,
    [
      at,
      ...columnsOf(places),
      ...columnsOf(handled),
      ...columnsOf(pending),
      pending.map(([, , index]) => index),
      bound + 1,
    ],
  );
  const counts = new Map<string, number>();
  let total = 0;
  for (const [cursor, inSql, decides, count] of rows) {
    const key = `${cursor}:${inSql === null ? lanes.laneOfValue(decides) : Number(inSql)}`;
    counts.set(key, (counts.get(key) ?? 0) + count);
    total += count;
  }
  return { total, rowsOf: (cursor: number, lane: number) => counts.get(`${cursor}:${lane}`) ?? 0 };
}

/** Xids and ids, each as an array. */
const columnsOf = (rows: readonly (readonly [xid: number, id: number | string, ...unknown[]])[]) => [
  rows.map(([xid]) => String(xid)),
  rows.map(([, id]) => String(id)),
];
