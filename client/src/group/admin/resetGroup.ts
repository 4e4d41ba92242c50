/** Moves all lanes of a group to another place in the log. */
import type { Query } from '@pg-signals/db';
import type { Pool } from 'pg';
import { tableSql } from '../../listen/feedTable.ts';
import type { StoredCursor } from '../storedCursor.ts';
import { findGroup, type KnownGroup, notifyMembers } from './findGroup.ts';
import { GroupError } from './groupError.ts';
import { changing } from './transaction.ts';

/** The beginning of the log, its end, or the first row whose "timestamp" is not before this moment. */
export type ResetPosition = 'earliest' | 'latest' | Date;

/** Every transaction that can have written a row comes after it: 3 is the first number that PostgreSQL gives. */
const EARLIEST = '3:3:';

/**
 * Lets a group begin at another place. Members that run notice, and join again. What they have in hand they may finish; it
 * comes again where it lies after the new place. The group's retries are deleted, its dead letters stay.
 *
 * @returns how many retries were deleted, and how many members have to join again.
 * @throws {GroupError} `unknown`; for a moment `no-timestamp` or `no-table`.
 */
export function resetGroup(
  pool: Pool,
  name: string,
  to: ResetPosition,
): Promise<{ at: string; retries: number; members: number }> {
  return changing(pool, async (query) => {
    // Before the lock: in a long log without an index on "timestamp" it may take minutes.
    const { at, takenAt } = await placeOf(query, name, await findGroup(query, name), to);
    const group = await findGroup(query, name, 'FOR UPDATE');
    const lanes = Array.from({ length: group.lanes }, (_, lane) => lane);
    const members = await query('DELETE FROM public.signal_group_members WHERE group_id = $1 RETURNING epoch', [
      group.id,
    ]);
    const retries = await query('DELETE FROM public.signal_retries WHERE group_id = $1 RETURNING signal_id', [
      group.id,
    ]);
    await query(
      `UPDATE public.signal_groups
       SET free = $2::jsonb, left_at = CASE WHEN $3 THEN now() ELSE left_at END
       WHERE id = $1`,
      [group.id, JSON.stringify([{ lanes, at, takenAt } satisfies StoredCursor]), members.length > 0],
    );
    await notifyMembers(query, name);
    return { at, retries: retries.length, members: members.length };
  });
}

async function placeOf(
  query: Query,
  name: string,
  { feed }: KnownGroup,
  to: ResetPosition,
): Promise<Pick<StoredCursor, 'at' | 'takenAt'>> {
  if (to === 'latest' || to === 'earliest') {
    const [row] = await query<[at: string, now: number]>(
      'SELECT pg_current_snapshot()::text, (extract(epoch FROM clock_timestamp()) * 1000)::float8',
    );
    const [at, now] = row!;
    return { at: to === 'latest' ? at : EARLIEST, takenAt: Math.round(now) };
  }
  const table = tableSql({ table: feed, columns: [] });
  await requireTimestamp(query, name, table);
  return { at: await snapshotBefore(query, table, to), takenAt: to.getTime() };
}

async function requireTimestamp(query: Query, name: string, table: string): Promise<void> {
  const [row] = await query<[exists: boolean, hasTimestamp: boolean]>(
    `SELECT
       to_regclass($1) IS NOT NULL,
       EXISTS (
         SELECT FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'timestamp' AND NOT attisdropped
       )`,
    [table],
  );
  const [exists, hasTimestamp] = row!;
  if (!exists) throw new GroupError('no-table', `the table ${table}, which the group ${name} reads, is gone`);
  if (!hasTimestamp) {
    throw new GroupError('no-timestamp', `the table ${table} has no column "timestamp": expected earliest or latest`);
  }
}

/**
 * The snapshot that covers every transaction before the first one with such a row, but none that still runs: its rows may be of
 * that moment too. The present one where there is no such row.
 */
async function snapshotBefore(query: Query, table: string, moment: Date): Promise<string> {
  const [row] = await query<[string]>(
    `SELECT
       CASE WHEN first.xid IS NULL THEN pg_current_snapshot()::text
       ELSE (
         SELECT format('%s:%s:%s', coalesce((array_agg(running ORDER BY running))[1], first.xid), first.xid,
           string_agg(running::text, ',' ORDER BY running))
         FROM pg_snapshot_xip(pg_current_snapshot()) AS running
         WHERE running < first.xid
       )
       END
     FROM (SELECT) AS one
     LEFT JOIN (SELECT xid FROM ${table} WHERE "timestamp" >= $1 ORDER BY xid, id LIMIT 1) AS first ON true`,
    [moment],
  );
  return row![0];
}
