/** Finds a group by its name, locks it for a change, and notifies its members of one. */
import type { Query } from '@pg-signals/db';
import { GROUPS_CHANNEL } from '../membership.ts';
import { GroupError } from './groupError.ts';
import type { GroupShape } from './lag.ts';

export interface KnownGroup extends GroupShape {
  readonly id: string;
}

/**
 * @param lock `FOR UPDATE` keeps members from moving lanes and from adding retries until the commit, so little may come before
 *   that; `FOR KEY SHARE` keeps the group from being reset or deleted.
 * @throws {GroupError} `unknown`.
 */
export async function findGroup(
  query: Query,
  name: string,
  lock: '' | 'FOR UPDATE' | 'FOR KEY SHARE' = '',
): Promise<KnownGroup> {
  const [row] = await query<[id: string, feed: string, lanes: number, order: string | null]>(
    `SELECT id, feed, lanes, order_key FROM public.signal_groups WHERE name = $1 ${lock}`,
    [name],
  );
  if (!row) return throwUnknown(query, name);
  const [id, feed, lanes, order] = row;
  return { id, feed, lanes, order };
}

/** @throws {GroupError} `unknown`, with the names that exist. */
export async function throwUnknown(query: Query, name: string): Promise<never> {
  const rows = await query<[string]>('SELECT name FROM public.signal_groups ORDER BY is_slot, name');
  const names = rows.map(([each]) => each);
  const there = names.length === 0 ? 'there is none' : `there are ${names.slice(0, 20).join(', ')}`;
  throw new GroupError('unknown', `no group ${name}: ${there}${names.length > 20 ? ', …' : ''}`);
}

/** At the commit: the group's lanes or its retries have changed. */
export async function notifyMembers(query: Query, name: string): Promise<void> {
  await query('SELECT pg_notify($1, $2)', [GROUPS_CHANNEL, name]);
}
