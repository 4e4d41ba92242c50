/** How groups stand: their members, lanes and lag, as `npm run groups -- --json` prints them. */
import type { Query } from '@pg-signals/db';
import type { Pool } from 'pg';
import type { StoredCursor } from '../storedCursor.ts';
import { throwUnknown } from './findGroup.ts';
import { type GroupShape, type Lag, lagOfLanes, planLag, sumOf } from './lag.ts';
import { reading } from './transaction.ts';

export interface MemberState {
  readonly name: string;
  readonly epoch: number;
  /** False where its lease has ended and no other member has taken its lanes yet. */
  readonly alive: boolean;
  /** RFC 3339 in UTC, by the database's clock. */
  readonly lease_until: string;
  readonly joined_at: string;
  readonly lanes: number;
  readonly in_flight: number;
}

/** Lag fields are null where the group's table is gone. */
export type GroupState = GroupShape & {
  readonly name: string;
  readonly slot: boolean;
  readonly members: readonly MemberState[];
  /** Signals that handlers of living members have now. */
  readonly in_flight: number;
  readonly retries: number;
  readonly dead_letters: number;
} & { readonly [Field in keyof Lag]: Lag[Field] | null };

export type LaneState = {
  readonly lane: number;
  /** Name of the member; null where no one owns the lane. */
  readonly owner: string | null;
  readonly epoch: number | null;
  readonly lease_until: string | null;
  /** Null where no one owns it. */
  readonly alive: boolean | null;
} & { readonly [Field in keyof Lag]: Lag[Field] | null };

export interface ReadOptions {
  /** Rows read at most for each distinct cursor (1,000,000); past that a lag is a lower bound. */
  readonly bound?: number;
}

/** All groups and slots, sorted by their names, the slots last. */
export function listGroups(pool: Pool, { bound }: ReadOptions = {}): Promise<GroupState[]> {
  return reading(pool, async (query) => {
    const groups: GroupState[] = [];
    for (const row of await readRows(query, null)) groups.push((await stateOf(query, row, bound)).group);
    return groups;
  });
}

/**
 * One group, and each of its lanes.
 *
 * @throws {GroupError} `unknown`.
 */
export function showGroup(
  pool: Pool,
  name: string,
  { bound }: ReadOptions = {},
): Promise<{ group: GroupState; lanes: LaneState[] }> {
  return reading(pool, async (query) => {
    const [row] = await readRows(query, name);
    return row ? stateOf(query, row, bound) : throwUnknown(query, name);
  });
}

/** As the database keeps it. */
interface GroupRow extends GroupShape {
  name: string;
  slot: boolean;
  free: readonly StoredCursor[];
  members: readonly (Omit<MemberState, 'lanes'> & { cursors: readonly StoredCursor[] })[];
  retries: number;
  dead_letters: number;
  /** By the database's clock, in ms since 1970. */
  now: number;
}

/** One group, or all of them where `name` is null. */
async function readRows(query: Query, name: string | null): Promise<GroupRow[]> {
  await query(`SELECT set_config('timezone', 'UTC', true)`);
  await planLag(query);
  const rows = await query<[GroupRow]>(
    `SELECT json_build_object(
       'name', name,
       'slot', is_slot,
       'feed', feed,
       'lanes', lanes,
       'order', order_key,
       'free', free,
       'members', (
         SELECT coalesce(json_agg(
           json_build_object(
             'name', member.name,
             'epoch', member.epoch,
             'alive', member.lease_until >= clock_timestamp(),
             'lease_until', member.lease_until,
             'joined_at', member.joined_at,
             'in_flight', member.in_flight,
             'cursors', member.cursors
           )
           ORDER BY member.epoch
         ), '[]')
         FROM public.signal_group_members AS member
         WHERE member.group_id = signal_groups.id
       ),
       'retries', (SELECT count(*) FROM public.signal_retries AS retry WHERE retry.group_id = signal_groups.id),
       'dead_letters', (SELECT count(*) FROM public.dead_letters AS dead WHERE dead.group_name = signal_groups.name),
       'now', extract(epoch FROM clock_timestamp()) * 1000
     )
     FROM public.signal_groups
     WHERE $1::text IS NULL OR name = $1
     -- consumer-2 before consumer-10
     ORDER BY is_slot, CASE WHEN is_slot THEN length(name) END, name COLLATE "C"`,
    [name],
  );
  return rows.map(([row]) => row);
}

const UNKNOWN_LAG = { lag_rows: null, lag_at_least: null, lag_seconds: null };

async function stateOf(
  query: Query,
  row: GroupRow,
  bound?: number,
): Promise<{ group: GroupState; lanes: LaneState[] }> {
  const { name, slot, feed, order, members, retries, dead_letters } = row;
  const cursors = [...row.free, ...members.flatMap((member) => member.cursors)];
  const lags = await lagOfLanes(query, row, cursors, row.now, bound);
  const group: GroupState = {
    name,
    slot,
    feed,
    order,
    lanes: row.lanes,
    members: members.map(({ cursors: own, ...member }) => ({ ...member, lanes: own.flatMap(lanesOf).length })),
    ...(lags ? sumOf(lags) : UNKNOWN_LAG),
    in_flight: members.reduce((sum, { alive, in_flight }) => sum + (alive ? in_flight : 0), 0),
    retries,
    dead_letters,
  };
  const owners = new Map(members.flatMap((member) => member.cursors.flatMap(lanesOf).map((lane) => [lane, member])));
  const lanes = Array.from({ length: row.lanes }, (_, lane): LaneState => {
    const owner = owners.get(lane);
    return {
      lane,
      owner: owner?.name ?? null,
      epoch: owner?.epoch ?? null,
      lease_until: owner?.lease_until ?? null,
      alive: owner?.alive ?? null,
      ...(lags?.[lane] ?? UNKNOWN_LAG),
    };
  });
  return { group, lanes };
}

const lanesOf = ({ lanes }: StoredCursor) => lanes;
