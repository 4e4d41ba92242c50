/** How a broadcast replica takes a slot: a group of one lane, whose cursor outlives the replica. */
import type { Pool, PoolClient } from 'pg';
import { STARTED_AT, TIMELINE } from '../listen/snapshot.ts';
import { enter, replace } from './joinGroup.ts';
import { memberLag } from './memberLag.ts';
import { inTransaction, Membership, type MembershipOptions, rows } from './membership.ts';
import type { StoredCursor } from './storedCursor.ts';

/** Whoever takes, makes or removes slots of a prefix does it alone. */
const LOCK = `SELECT pg_advisory_xact_lock(hashtext('pg_signals_slots'), hashtext($1))`;
/** Of the table `slot`, with the prefix as $1 and the feed as $2: `a-1` is a slot of `a`, and `a-b-1` is not. */
const OF_PREFIX = `slot.is_slot AND slot.feed = $2
  AND starts_with(slot.name, $1 || '-') AND substr(slot.name, length($1) + 2) ~ '^[0-9]+$'`;
/** Rows that are counted at most when a slot expires. */
const COUNTED_MAX = 1_000_000;
/** For the count of what an expired slot gives up, in ms. */
const COUNT_TIMEOUT_MS = 60_000;

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
 * is free as soon as the server has noticed. A connection that began after the lease was renewed is another one, with the same
 * process id: a server in a container gives out the same few after each start. (Of other roles' connections only the id is shown.)
 */
export function joinSlot(
  identity: SlotIdentity,
  options: MembershipOptions,
  past: Past | undefined,
): Promise<Membership> {
  const { prefix } = identity;
  return inTransaction(options.pool, options.timeoutMs, async (client) => {
    await client.query(LOCK, [prefix]);
    const slots = await rows<[id: string, name: string, member: string | null, epoch: number | null, isHeld: boolean]>(
      client,
      `SELECT slot.id::text, slot.name, member.name, member.epoch::int,
         member.epoch IS NOT NULL AND member.lease_until >= clock_timestamp()
           AND (member.backend IS NULL OR EXISTS (
             SELECT FROM pg_stat_activity
             WHERE pid = member.backend
               AND greatest(backend_start, pg_postmaster_start_time()) <= lease_until - $3 * interval '1 ms'
           ))
       FROM public.signal_groups AS slot
       LEFT JOIN public.signal_group_members AS member ON member.group_id = slot.id
       WHERE ${OF_PREFIX}
       ORDER BY length(slot.name), slot.name
       FOR UPDATE OF slot`,
      [prefix, identity.feed, options.leaseMs],
    );
    const own =
      past && slots.find(([id, , member]) => id === past.membership.groupId && member === past.membership.member);
    const stoodAt = past?.cursors ?? [];
    const free = stoodAt.length > 0 ? undefined : slots.find(([, , , , isHeld]) => !isHeld);
    const found = own ?? free;
    const [id, name] = found ?? (await make(client, identity, stoodAt));
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

/** A slot with the lowest number that is not taken, by a slot or by a group of that name. */
async function make(
  client: PoolClient,
  { prefix, feed }: SlotIdentity,
  cursors: readonly StoredCursor[],
): Promise<[id: string, name: string]> {
  for (let number = 1; ; number++) {
    const name = `${prefix}-${number}`;
    const [slot] = await rows<[string]>(
      client,
      `INSERT INTO public.signal_groups (name, feed, lanes, is_slot, free)
       VALUES ($1, $2, 1, true, coalesce($3, jsonb_build_array(jsonb_build_object(
         'lanes', '[0]'::jsonb,
         'at', pg_current_snapshot()::text,
         'takenAt', round(extract(epoch FROM clock_timestamp()) * 1000)::bigint
       ))))
       ON CONFLICT (name) DO NOTHING
       RETURNING id::text`,
      [name, feed, cursors.length > 0 ? JSON.stringify(cursors) : null],
    );
    if (slot) return [slot[0], name];
  }
}

/** A slot that no replica has held for too long. */
export interface ExpiredSlot {
  readonly slot: string;
  /** When it was held last. */
  readonly since: string;
  /** Signals that no replica has received through it; of 1,000,000 or more, so many at least. */
  readonly signals: number;
}

/** Removes the slots that no replica has held for `ttlMs`, and says what that gives up. */
export async function expireSlots(
  pool: Pool,
  { prefix, feed }: SlotIdentity,
  ttlMs: number,
  timeoutMs: number,
): Promise<ExpiredSlot[]> {
  // One that a replica has just taken is none: this waits for it, and the statement sees what it has done.
  const expired = await inTransaction(pool, timeoutMs, async (client) => {
    await client.query(LOCK, [prefix]);
    return rows<[name: string, since: string, cursors: StoredCursor[]]>(
      client,
      `WITH held AS (
         SELECT slot.id, coalesce(max(lease_until), slot.left_at, slot.created_at) AS until,
           slot.free || coalesce(jsonb_path_query_array(jsonb_agg(cursors) FILTER (WHERE cursors IS NOT NULL), '$[*][*]'), '[]') AS cursors
         FROM public.signal_groups AS slot
         LEFT JOIN public.signal_group_members AS member ON member.group_id = slot.id
         WHERE ${OF_PREFIX}
         GROUP BY slot.id
       )
       DELETE FROM public.signal_groups AS slot
       USING held
       WHERE slot.id = held.id AND until < clock_timestamp() - $3 * interval '1 ms'
       RETURNING name, to_char(until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), cursors`,
      [prefix, feed, ttlMs],
    );
  });
  return Promise.all(
    expired.map(async ([slot, since, cursors]) => {
      const options = { bound: COUNTED_MAX, timeoutMs: COUNT_TIMEOUT_MS };
      const lag = await memberLag(pool, { feed, lanes: 1, order: null }, cursors, options);
      return { slot, since, signals: lag?.lag_rows ?? 0 };
    }),
  );
}
