/** How a process becomes a member of a group. */
import type { PoolClient } from 'pg';
import { STARTED_AT, TIMELINE } from '../listen/snapshot.ts';
import { GROUPS_CHANNEL, inTransaction, Membership, type MembershipOptions, rows } from './membership.ts';

/** The group was made with other options than this member has. */
export class GroupMismatchError extends Error {
  override name = 'GroupMismatchError';
}

/** A group is made with these. */
export interface GroupIdentity {
  readonly name: string;
  readonly feed: string;
  readonly lanes: number;
  readonly order: string | undefined;
  readonly from: 'latest' | 'earliest';
}

/**
 * Joins a group, which is made where there is none, without any lane yet.
 *
 * @param replaced the membership that this process had before: its lanes come free at once.
 * @throws {GroupMismatchError} where the group was made with another table, order or number of lanes.
 */
export function joinGroup(
  identity: GroupIdentity,
  options: MembershipOptions,
  replaced: Membership | undefined,
): Promise<Membership> {
  const { name, feed, lanes, order } = identity;
  return inTransaction(options.pool, options.timeoutMs, async (client) => {
    await make(client, identity);
    const [group] = await rows<[string, string, number, string | null, boolean, number, string, number]>(
      client,
      `UPDATE public.signal_groups
       SET epoch = epoch + 1, left_at = NULL
       WHERE name = $1
       RETURNING id::text, feed, lanes, order_key, is_slot, epoch::int, ${STARTED_AT}, ${TIMELINE}`,
      [name],
    );
    const [id, itsFeed, itsLanes, itsOrder, isSlot, epoch, startedAt, timeline] = group!;
    if (isSlot) throw new GroupMismatchError(`${name} is a slot: choose another name for the group`);
    requireSame(name, 'reads the table', itsFeed, feed);
    requireSame(name, 'has lanes', itsLanes, lanes);
    requireSame(name, 'is ordered by', itsOrder ?? 'nothing', order ?? 'nothing');
    if (replaced?.groupId === id) await replace(client, id, replaced.epoch, replaced.member);
    await enter(client, id, epoch, options);
    await client.query('SELECT pg_notify($1, $2)', [GROUPS_CHANNEL, name]);
    return new Membership(options, { id, name, lanes, epoch, startedAt, timeline });
  });
}

async function make(client: PoolClient, { name, feed, lanes, order, from }: GroupIdentity): Promise<void> {
  const all = JSON.stringify(Array.from({ length: lanes }, (_, lane) => lane));
  // Whoever commits after this statement's snapshot is read.
  await client.query(
    `INSERT INTO public.signal_groups (name, feed, lanes, order_key, free)
     SELECT $1, $2, $3, $4, jsonb_build_array(jsonb_build_object(
       'lanes', $5::jsonb,
       'at', CASE WHEN $6 = 'earliest' THEN '3:3:' ELSE pg_current_snapshot()::text END,
       'takenAt', round(extract(epoch FROM clock_timestamp()) * 1000)::bigint
     ))
     WHERE NOT EXISTS (SELECT FROM public.signal_groups WHERE name = $1)
     ON CONFLICT (name) DO NOTHING`,
    [name, feed, lanes, order ?? null, all, from],
  );
}

/**
 * Takes a member out whose process is known to be gone, or to be this one.
 *
 * @param name tells it from another that has the same number since a failover.
 */
export async function replace(client: PoolClient, groupId: string, epoch: number, name: string): Promise<void> {
  await client.query(
    `WITH gone AS (
       DELETE FROM public.signal_group_members WHERE group_id = $1 AND epoch = $2 AND name = $3 RETURNING cursors
     )
     UPDATE public.signal_groups SET free = free || cursors FROM gone WHERE id = $1`,
    [groupId, epoch, name],
  );
}

export async function enter(
  client: PoolClient,
  groupId: string,
  epoch: number,
  options: MembershipOptions,
): Promise<void> {
  await client.query(
    `INSERT INTO public.signal_group_members (group_id, epoch, name, lease_until, cursors)
     VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 ms', '[]')`,
    [groupId, epoch, options.member, options.leaseMs],
  );
}

function requireSame(name: string, what: string, its: unknown, ours: unknown): void {
  if (its === ours) return;
  throw new GroupMismatchError(
    `the group ${name} ${what} ${its}, and this member expects ${ours}: they are fixed when a group is made`,
  );
}
