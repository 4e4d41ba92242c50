/** How a broadcast replica takes a slot: a group of one lane, whose cursor outlives the replica. */
import type { Query } from '@pg-signals/db';
import type { PoolClient } from 'pg';
import { tableSql } from '../listen/feedTable.ts';
import { STARTED_AT, TIMELINE } from '../listen/snapshot.ts';
import { enter, replace } from './joinGroup.ts';
import { inTransaction, Membership, type MembershipOptions, rows } from './membership.ts';
import type { StoredCursor } from './storedCursor.ts';

/** Rows that are counted at most when a slot expires. */
const COUNTED_MAX = 1_000_000;

export interface SlotIdentity {
  /** Slots are called `prefix-1`, `prefix-2`, … */
  readonly prefix: string;
  readonly feed: string;
}

/** What a replica had when its membership ended. */
export interface Past {
  readonly membership: Membership;
  /** Where it stood; empty where that means nothing on the server that answers. */
  readonly cursors: readonly StoredCursor[];
}

/**
 * Takes a slot: the one that this replica held before, where it is still its own; a new one that goes on where this replica
 * stands, where another has taken that; otherwise the lowest that no replica holds, or a new one that begins now.
 *
 * A slot is held as long as the lease of its replica holds and the server has its connection: that of a replica that was killed
 * is free as soon as the server has noticed.
 */
export function joinSlot(
  identity: SlotIdentity,
  options: MembershipOptions,
  past: Past | undefined,
): Promise<Membership> {
  const { prefix } = identity;
  return inTransaction(options.pool, options.timeoutMs, async (client) => {
    await client.query(`SELECT pg_advisory_xact_lock(hashtext('pg_signals_slots'), hashtext($1))`, [prefix]);
    const slots = await rows<[id: string, name: string, member: string | null, epoch: number | null, isHeld: boolean]>(
      client,
      `SELECT slot.id::text, slot.name, member.name, member.epoch::int,
         member.epoch IS NOT NULL AND member.lease_until >= clock_timestamp()
           AND (member.backend IS NULL OR member.backend IN (SELECT pid FROM pg_stat_activity))
       FROM public.signal_groups AS slot
       LEFT JOIN public.signal_group_members AS member ON member.group_id = slot.id
       WHERE is_slot AND feed = $2 AND starts_with(slot.name, $1 || '-')
       ORDER BY length(slot.name), slot.name
       FOR UPDATE OF slot`,
      [prefix, identity.feed],
    );
    const own =
      past && slots.find(([id, , member]) => id === past.membership.groupId && member === past.membership.member);
    const stoodAt = past?.cursors ?? [];
    const free = stoodAt.length > 0 ? undefined : slots.find(([, , , , isHeld]) => !isHeld);
    const found = own ?? free;
    const [id, name] =
      found ??
      (await make(
        client,
        identity,
        slots.map(([, each]) => each),
        stoodAt,
      ));
    const [, , memberBefore, epochBefore] = found ?? [];
    if (memberBefore && epochBefore) await replace(client, id, epochBefore, memberBefore);
    const [row] = await rows<[epoch: number, startedAt: string, timeline: number]>(
      client,
      `UPDATE public.signal_groups
       SET epoch = epoch + 1, left_at = NULL
       WHERE id = $1
       RETURNING epoch::int, ${STARTED_AT}, ${TIMELINE}`,
      [id],
    );
    const [epoch, startedAt, timeline] = row!;
    await enter(client, id, epoch, options);
    return new Membership(options, { id, name, lanes: 1, epoch, startedAt, timeline });
  });
}

/** A slot with the lowest number that is not taken. */
async function make(
  client: PoolClient,
  { prefix, feed }: SlotIdentity,
  taken: readonly string[],
  cursors: readonly StoredCursor[],
): Promise<[id: string, name: string]> {
  let number = 1;
  while (taken.includes(`${prefix}-${number}`)) number++;
  const name = `${prefix}-${number}`;
  const [slot] = await rows<[string]>(
    client,
    `INSERT INTO public.signal_groups (name, feed, lanes, is_slot, free)
     VALUES ($1, $2, 1, true, coalesce($3, jsonb_build_array(jsonb_build_object(
       'lanes', '[0]'::jsonb,
       'at', pg_current_snapshot()::text,
       'takenAt', round(extract(epoch FROM clock_timestamp()) * 1000)::bigint
     ))))
     RETURNING id::text`,
    [name, feed, cursors.length > 0 ? JSON.stringify(cursors) : null],
  );
  return [slot![0], name];
}

/** A slot that nobody has held for too long. */
export interface ExpiredSlot {
  readonly slot: string;
  readonly since: string;
  /** Signals that no replica has received through it: 1,000,000 stands for that many or more. */
  readonly signals: number;
}

/** Removes the slots that no replica has held for `ttlMs`, and says what that gives up. */
export async function expireSlots(query: Query, feed: string, ttlMs: number): Promise<ExpiredSlot[]> {
  const expired = await query<[name: string, since: string, at: string]>(
    `DELETE FROM public.signal_groups AS slot
     WHERE is_slot AND feed = $1
       AND coalesce(
         (SELECT max(lease_until) FROM public.signal_group_members WHERE group_id = slot.id),
         left_at,
         created_at
       ) < clock_timestamp() - $2 * interval '1 ms'
     RETURNING name, to_char(left_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), free -> 0 ->> 'at'`,
    [feed, ttlMs],
  );
  return Promise.all(
    expired.map(async ([slot, since, at]) => {
      const [row] = await query<[number]>(
        `SELECT count(*)::int
         FROM (
           SELECT FROM ${tableSql({ table: feed, columns: [] })}
           WHERE xid >= pg_snapshot_xmin($1::pg_snapshot) AND NOT pg_visible_in_snapshot(xid, $1::pg_snapshot)
           LIMIT ${COUNTED_MAX}
         ) AS missed`,
        [at ?? '3:3:'],
      );
      return { slot, since, signals: row![0] };
    }),
  );
}
