/** Gives signals that were given up all their attempts again, or drops them. */
import type { Query } from '@pg-signals/db';
import type { Pool } from 'pg';
import { type FeedRow, tableSql } from '../../listen/feedTable.ts';
import { Lanes } from '../lanes.ts';
import { findGroup, notifyMembers } from './findGroup.ts';
import { GroupError } from './groupError.ts';
import { changing, reading } from './transaction.ts';

/** Dead letters in one transaction. */
const STEP = 1_000;

/** The signals that were asked for, by their ids. */
export interface RetriedDeadLetters {
  readonly retried: readonly number[];
  /** Their rows have been deleted since: they stay dead letters. */
  readonly deleted: readonly number[];
  /** They are no dead letters of the group. */
  readonly missing: readonly number[];
}

/**
 * Moves dead letters of a group back among its retries: due now, with all attempts before them, and in order behind retries of
 * the same key. A running member notices.
 *
 * @param ids of signals; all dead letters of the group without it.
 * @throws {GroupError} `unknown`; `no-table`, since a retry reads the signal's row again.
 */
export async function retryDeadLetters(pool: Pool, name: string, ids?: readonly number[]): Promise<RetriedDeadLetters> {
  const retried: number[] = [];
  const deleted: number[] = [];
  for (let after = '0', full = true; full; ) {
    full = await changing(pool, async (query) => {
      const group = await findGroup(query, name, 'FOR KEY SHARE');
      // A member whose statement waits for it sees what was added, and lets it have its turn behind the retry that is done.
      await query('LOCK TABLE public.signal_retries IN SHARE ROW EXCLUSIVE MODE');
      const letters = await readLetters(query, {
        name,
        table: tableSql({ table: group.feed, columns: [] }),
        ids,
        after,
      });
      const alive = letters.filter(({ xid }) => xid !== null);
      if (alive.length > 0) {
        await insertRetries(query, group.id, new Lanes(group.lanes, group.order ?? undefined), alive);
        await query('DELETE FROM public.dead_letters WHERE id = ANY ($1::bigint[])', [alive.map(({ id }) => id)]);
        await notifyMembers(query, name);
      }
      retried.push(...alive.map(({ signal_id }) => signal_id));
      deleted.push(...letters.filter(({ xid }) => xid === null).map(({ signal_id }) => signal_id));
      after = letters.at(-1)?.id ?? after;
      return letters.length === STEP;
    });
  }
  const found = new Set([...retried, ...deleted]);
  // After a reset a signal may have died twice.
  return {
    retried: [...new Set(retried)],
    deleted: [...new Set(deleted)],
    missing: (ids ?? []).filter((id) => !found.has(id)),
  };
}

/** How many dead letters are under a group's name. */
export async function countDeadLetters(pool: Pool, name: string): Promise<number> {
  const [row] = await reading(pool, (query) =>
    query<[number]>('SELECT count(*)::float8 FROM public.dead_letters WHERE group_name = $1', [name]),
  );
  return row![0];
}

/** The signals that were asked for, by their ids. */
export interface DroppedDeadLetters {
  readonly dropped: readonly number[];
  /** They are no dead letters of the group. */
  readonly missing: readonly number[];
}

/**
 * Deletes dead letters of a group, or those that an expired slot has left.
 *
 * @param ids of signals; all dead letters of the group without it.
 * @throws {GroupError} `unknown` where there is neither a group of this name nor a dead letter.
 */
export function dropDeadLetters(pool: Pool, name: string, ids?: readonly number[]): Promise<DroppedDeadLetters> {
  return changing(pool, async (query) => {
    const rows = await query<[string]>(
      `DELETE FROM public.dead_letters
       WHERE group_name = $1 AND ($2::bigint[] IS NULL OR signal_id = ANY ($2))
       RETURNING signal_id`,
      [name, ids],
    );
    if (rows.length === 0) await findGroup(query, name);
    const dropped = new Set(rows.map(([id]) => Number(id)));
    return { dropped: [...dropped], missing: (ids ?? []).filter((id) => !dropped.has(id)) };
  });
}

interface Letter {
  /** Its own. */
  id: string;
  signal_id: number;
  /** Of its row in the table; null where that is gone. */
  xid: string | null;
  /** The row: what decides its key. */
  row: FeedRow;
}

async function readLetters(
  query: Query,
  { name, table, ids, after }: { name: string; table: string; ids: readonly number[] | undefined; after: string },
): Promise<Letter[]> {
  const [found] = await query<[boolean]>('SELECT to_regclass($1) IS NOT NULL', [table]);
  if (!found![0]) throw new GroupError('no-table', `the table ${table}, which the group ${name} reads, is gone`);
  const rows = await query<[id: string, signalId: string, xid: string | null, row: FeedRow]>(
    `SELECT dead.id, dead.signal_id, feed.xid, coalesce(dead.signal, to_jsonb(feed))
     FROM public.dead_letters AS dead
     LEFT JOIN ${table} AS feed ON feed.id = dead.signal_id
     WHERE dead.group_name = $1 AND ($2::bigint[] IS NULL OR dead.signal_id = ANY ($2)) AND dead.id > $3
     ORDER BY dead.id
     LIMIT ${STEP}
     FOR UPDATE OF dead`,
    [name, ids, after],
  );
  return rows.map(([id, signalId, xid, row]) => ({ id, signal_id: Number(signalId), xid, row }));
}

/**
 * The first of a key is due now, unless an earlier retry of the key is there; the others wait. A signal that is tried again
 * already stays as it is.
 */
async function insertRetries(query: Query, groupId: string, lanes: Lanes, letters: readonly Letter[]): Promise<void> {
  const keys = letters.map(({ row }) => lanes.keyOf(row) ?? null);
  const busy = await query<[string]>(
    'SELECT DISTINCT key FROM public.signal_retries WHERE group_id = $1 AND key = ANY ($2)',
    [groupId, keys.filter((key) => key !== null)],
  );
  const waits = new Set(busy.map(([key]) => key));
  const isDue = keys.map((key) => {
    if (key === null) return true;
    const first = !waits.has(key);
    waits.add(key);
    return first;
  });
  await query(
    `INSERT INTO public.signal_retries (group_id, signal_id, xid, lane, key, attempts, due_at)
     SELECT $1, signal_id, xid, lane, key, 0, CASE WHEN is_due THEN now() ELSE 'infinity' END
     FROM unnest($2::bigint[], $3::xid8[], $4::int[], $5::text[], $6::boolean[]) WITH ORDINALITY
       AS letter (signal_id, xid, lane, key, is_due, position)
     ORDER BY position
     ON CONFLICT (group_id, signal_id) DO NOTHING`,
    [
      groupId,
      letters.map(({ signal_id }) => signal_id),
      letters.map(({ xid }) => xid),
      letters.map(({ signal_id }, index) => lanes.laneOf(signal_id, keys[index] ?? undefined)),
      keys,
      isDue,
    ],
  );
}
