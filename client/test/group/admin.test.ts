/** Looking after groups: lag, dead letters, reset and deletion, on groups stored as their members store them. */
import { createPool } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import type pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Lanes } from '../../src/group/lanes.ts';
import {
  countDeadLetters,
  deleteGroup,
  dropDeadLetters,
  type GroupState,
  listDeadLetters,
  listGroups,
  listRetries,
  resetGroup,
  retryDeadLetters,
  type Signal,
  showGroup,
} from '../../src/index.ts';
import { lanesTo, StoredGroups } from './storedGroups.ts';

let database: TestDatabase;
let pool: pg.Pool;
let stored: StoredGroups;
const connections: StoredGroups[] = [];
beforeEach(async () => {
  database = await createTestDatabase();
  pool = createPool({ connectionString: database.url, application_name: 'test admin', max: 2 });
  stored = await another();
});
afterEach(async () => {
  for (const connection of connections.splice(0)) await connection.end();
  await pool.end();
  await database.drop();
});

async function another(application?: string): Promise<StoredGroups> {
  const connection = await StoredGroups.connect(database.url, application);
  connections.push(connection);
  return connection;
}

const ALL = lanesTo(4);
const takenAt = Date.now() - 5_000;

async function lagOf(name: string): Promise<number | null> {
  return (await showGroup(pool, name)).group.lag_rows;
}

/** The lag of each lane. */
async function lags(name: string): Promise<(number | null)[]> {
  return (await showGroup(pool, name)).lanes.map(({ lag_rows }) => lag_rows);
}

// --- lag ----------------------------------------------------------------------------------------------------------------

test('the lag is the rows that a cursor does not cover, those of a transaction that was open then among them', async () => {
  const [late, open] = [await another(), await another()];
  await stored.signals(3);
  await late.client.query('BEGIN');
  await late.signals(5);
  await stored.signals(7);
  await stored.group({ name: 'all', free: [{ lanes: ALL, at: await stored.snapshot(), takenAt }] });
  expect(await lagOf('all')).toBe(0);
  await late.client.query('COMMIT');
  await open.client.query('BEGIN');
  await open.signals(100);
  expect(await lagOf('all')).toBe(5);
  await stored.signals(11);
  expect(await lagOf('all')).toBe(16);
});

test('rows up to a place of their transaction and handled rows are no lag; pending rows are', async () => {
  const [pendingId] = await stored.signals(1);
  const at = await stored.snapshot();
  const ids = await stored.signals(10);
  const [first] = await stored.signals(1);
  const xid = await stored.xidOf(ids[0]!);
  const cursor = { lanes: ALL, at, takenAt };
  await stored.group({ name: 'g', free: [cursor] });
  const lagWith = async (more: object) => {
    await stored.client.query(`UPDATE signal_groups SET free = $1::jsonb`, [JSON.stringify([{ ...cursor, ...more }])]);
    return lagOf('g');
  };
  const places = [[xid, String(ids[3])]];
  // The same ids in another transaction are other rows.
  const handled = [
    [xid, ids[8]!, ''],
    [await stored.xidOf(first!), first!, 'abc'],
    [xid + 1_000, ids[9]!, ''],
  ];
  const pending = [[await stored.xidOf(pendingId!), pendingId!]];
  expect(await lagWith({})).toBe(11);
  expect(await lagWith({ places })).toBe(7);
  expect(await lagWith({ handled })).toBe(9);
  expect(await lagWith({ pending })).toBe(12);
  expect(await lagWith({ places, handled, pending })).toBe(6);
});

test('each lane counts from its own cursor, owned or free', async () => {
  const before = await stored.snapshot();
  const ids = await stored.signals(20);
  const between = await stored.snapshot();
  const later = await stored.signals(20);
  await stored.group({ name: 'g', free: [{ lanes: [1], at: before, takenAt }] });
  await stored.member({ group: 'g', name: 'a', epoch: 1, cursors: [{ lanes: [0, 3], at: between, takenAt }] });
  await stored.member({
    group: 'g',
    name: 'b',
    epoch: 2,
    cursors: [{ lanes: [2], at: await stored.snapshot(), takenAt }],
  });
  const inLane = (lane: number, of: number[]) => of.filter((id) => id % 4 === lane).length;
  const expected = [inLane(0, later), inLane(1, [...ids, ...later]), 0, inLane(3, later)];
  expect(await lags('g')).toEqual(expected);
  expect(await lagOf('g')).toBe(expected.reduce((sum, rows) => sum + rows));
  const { lanes } = await showGroup(pool, 'g');
  expect(lanes.map(({ owner, epoch }) => [owner, epoch])).toEqual([
    ['a', 1],
    [null, null],
    ['b', 2],
    ['a', 1],
  ]);
});

test('a pending row that each part of a divided cursor keeps is counted once', async () => {
  const [id] = await stored.signals(1);
  const cursor = {
    at: await stored.snapshot(),
    takenAt,
    pending: [[await stored.xidOf(id!), id!]] as [number, number][],
  };
  await stored.group({ name: 'g', free: [{ lanes: [0, 1], ...cursor }] });
  await stored.member({ group: 'g', name: 'a', epoch: 1, cursors: [{ lanes: [2, 3], ...cursor }] });
  expect(await lags('g')).toEqual(ALL.map((lane) => (lane === id! % 4 ? 1 : 0)));
});

test('with an order key, SQL and the members put each row in the same lane, whatever its key is', async () => {
  const keys = ['a', 'b', 'ü', '', 1, 1.5, 1e21, -0.1, true, false, null, ['x'], { b: 1, a: [1.0] }, '1', 'true'];
  const at = await stored.snapshot();
  await stored.signals(keys.length, (n) => ({ customer: { id: keys[n] } }));
  await stored.signals(3, () => ({ customer: 'none' }));
  // JSON writes these numbers otherwise than PostgreSQL keeps them.
  await stored.client.query(`INSERT INTO signals (signal_name, signal_value, attributes)
    SELECT 's', 1, jsonb_build_object('customer', jsonb_build_object('id', n::numeric)) FROM unnest('{1.0,1.50,1e2}'::text[]) n`);
  const lanes = new Lanes(64, 'attributes.customer.id');
  await stored.group({
    name: 'g',
    lanes: 64,
    order: 'attributes.customer.id',
    free: [{ lanes: lanesTo(64), at, takenAt }],
  });
  const expected = new Array(64).fill(0);
  for (const { row } of await stored.rows('SELECT to_jsonb(signals) AS row FROM signals')) {
    const signal = row as Signal;
    expected[lanes.laneOf(signal.id, lanes.keyOf(signal))]++;
  }
  expect(await lags('g')).toEqual(expected);
});

test('a column as the order key puts all its rows in one lane', async () => {
  const at = await stored.snapshot();
  await stored.signals(9);
  await stored.group({ name: 'g', lanes: 64, order: 'signal_name', free: [{ lanes: lanesTo(64), at, takenAt }] });
  const expected = new Array(64).fill(0);
  expected[new Lanes(64, 'signal_name').laneOf(0, 's')] = 9;
  expect(await lags('g')).toEqual(expected);
});

test('past the bound the lag is said to be at least what was read', async () => {
  const free = [{ lanes: ALL, at: await stored.snapshot(), takenAt }];
  await stored.signals(25);
  await stored.group({ name: 'g', free });
  expect(await listGroups(pool, { bound: 24 })).toMatchObject([{ lag_rows: 25, lag_at_least: true }]);
  expect(await listGroups(pool, { bound: 25 })).toMatchObject([{ lag_rows: 25, lag_at_least: false }]);
});

test('the lag in seconds is the age of the oldest cursor that is behind', async () => {
  const before = await stored.snapshot();
  const [id] = await stored.signals(1);
  const lane = id! % 4;
  const others = ALL.filter((each) => each !== lane);
  const { now } = (await stored.rows('SELECT extract(epoch FROM clock_timestamp())::float8 * 1000 AS now'))[0] as {
    now: number;
  };
  await stored.group({
    name: 'g',
    free: [
      { lanes: [lane], at: before, takenAt: now - 60_000 },
      { lanes: others, at: before, takenAt: now - 3_600_000 },
    ],
  });
  const { group } = await showGroup(pool, 'g');
  expect(group.lag_seconds).toBeGreaterThanOrEqual(60);
  expect(group.lag_seconds).toBeLessThan(90);
  await resetGroup(pool, 'g', 'latest');
  expect((await showGroup(pool, 'g')).group.lag_seconds).toBe(0);
});

test('groups are listed with members, retries and dead letters, slots after them in their order', async () => {
  const at = await stored.snapshot();
  await stored.group({ name: 'b' });
  await stored.group({ name: 'a', free: [{ lanes: [3], at, takenAt }] });
  for (const n of [10, 2]) await stored.group({ name: `consumer-${n}`, lanes: 1, slot: true });
  await stored.member({ group: 'a', name: 'm', epoch: 1, cursors: [{ lanes: [0, 1], at, takenAt }], inFlight: 3 });
  await stored.member({
    group: 'a',
    name: 'gone',
    epoch: 2,
    cursors: [{ lanes: [2], at, takenAt }],
    lease: -1,
    inFlight: 9,
  });
  await stored.retry('a', 1);
  await stored.retry('a', 2);
  await stored.deadLetter('a', 3);
  await stored.deadLetter('b', 3);
  const groups = await listGroups(pool);
  expect(groups.map(({ name, slot }) => [name, slot])).toEqual([
    ['a', false],
    ['b', false],
    ['consumer-2', true],
    ['consumer-10', true],
  ]);
  expect(groups[0]).toMatchObject({ in_flight: 3, retries: 2, dead_letters: 1, lag_rows: 0, lag_seconds: 0 });
  expect(groups[0]!.members.map(({ name, alive, lanes }) => [name, alive, lanes])).toEqual([
    ['m', true, 2],
    ['gone', false, 1],
  ]);
});

test('a table with an odd name is read; one that is gone has no lag, and the group can be deleted', async () => {
  const feed = `public.it's "odd" %s $1`;
  const quoted = '"it\'s ""odd"" %s $1"';
  await stored.client.query(
    `CREATE TABLE ${quoted} (id bigserial PRIMARY KEY, xid xid8 DEFAULT pg_current_xact_id(), "o'k" text)`,
  );
  await stored.group({ name: 'g', feed, order: "o'k", free: [{ lanes: ALL, at: await stored.snapshot(), takenAt }] });
  await stored.client.query(`INSERT INTO ${quoted} ("o'k") VALUES ('a'), ('b')`);
  expect(await lagOf('g')).toBe(2);
  await expect(resetGroup(pool, 'g', new Date())).rejects.toMatchObject({ failure: 'no-timestamp' });
  await resetGroup(pool, 'g', 'latest');
  expect(await lagOf('g')).toBe(0);
  await stored.client.query(`DROP TABLE ${quoted}`);
  expect((await listGroups(pool))[0]).toMatchObject({ lag_rows: null, lag_at_least: null, lag_seconds: null });
  await expect(retryDeadLetters(pool, 'g')).rejects.toMatchObject({ failure: 'no-table' });
  await deleteGroup(pool, 'g');
  expect(await listGroups(pool)).toEqual([]);
});

test('a group that does not exist is an error that names those that do', async () => {
  await expect(showGroup(pool, 'x')).rejects.toThrow('no group x: there is none');
  await stored.group({ name: 'billing' });
  await stored.group({ name: 'mail' });
  for (const ask of [showGroup, listRetries, retryDeadLetters, dropDeadLetters, deleteGroup]) {
    await expect(ask(pool, 'x')).rejects.toThrow('no group x: there are billing, mail');
  }
  await expect(resetGroup(pool, 'x', 'latest')).rejects.toMatchObject({ failure: 'unknown' });
});

// --- dead letters ---------------------------------------------------------------------------------------------------------

test('dead letters are listed, and dropped by the ids of their signals', async () => {
  const ids = await stored.signals(4);
  await stored.group({ name: 'g' });
  for (const id of ids) await stored.deadLetter('g', id);
  await stored.deadLetter('other', ids[0]!);
  const [first] = await listDeadLetters(pool, 'g', { limit: 1 });
  expect(first).toMatchObject({ signal_id: ids[0], attempts: 6, first_error: 'the first', last_error: 'the last' });
  expect(first!.signal).toMatchObject({ id: ids[0], signal_name: 's' });
  expect(await dropDeadLetters(pool, 'g', [ids[0]!, 999])).toEqual({ dropped: [ids[0]], missing: [999] });
  expect(await countDeadLetters(pool, 'g')).toBe(3);
  expect((await dropDeadLetters(pool, 'g')).dropped).toEqual(ids.slice(1));
  // Those of a slot that expired.
  expect((await dropDeadLetters(pool, 'other')).dropped).toEqual([ids[0]]);
});

test('a dead letter is tried again with all its attempts, unless its row was deleted, and members are notified', async () => {
  const ids = await stored.signals(3);
  await stored.group({ name: 'g' });
  for (const id of ids) await stored.deadLetter('g', id);
  await stored.client.query('DELETE FROM signals WHERE id = $1', [ids[1]]);
  const listening = await another();
  const notified = new Promise((resolve) => listening.client.once('notification', resolve));
  await listening.client.query('LISTEN signals_groups');
  expect(await retryDeadLetters(pool, 'g', [...ids, 999])).toEqual({
    retried: [ids[0], ids[2]],
    deleted: [ids[1]],
    missing: [999],
  });
  expect(await notified).toMatchObject({ channel: 'signals_groups', payload: 'g' });
  expect((await listDeadLetters(pool, 'g')).map(({ signal_id }) => signal_id)).toEqual([ids[1]]);
  const retries = await stored.rows(
    'SELECT signal_id, xid, lane, key, attempts, due_at <= now() AS due, running FROM signal_retries ORDER BY seq',
  );
  const xid = String(await stored.xidOf(ids[0]!));
  const expected = [ids[0]!, ids[2]!].map((id) => ({
    signal_id: String(id),
    xid,
    lane: id % 4,
    key: null,
    attempts: 0,
    due: true,
    running: null,
  }));
  expect(retries).toEqual(expected);
});

test('more dead letters than fit into one step are all tried again', async () => {
  await stored.group({ name: 'g' });
  await stored.signals(2_500);
  await stored.client.query(`INSERT INTO dead_letters (group_name, signal_id, signal, attempts)
    SELECT 'g', id, to_jsonb(signals), 1 FROM signals ORDER BY id`);
  await stored.client.query('DELETE FROM signals WHERE id % 2 = 0');
  const { retried, deleted } = await retryDeadLetters(pool, 'g');
  expect([retried.length, deleted.length]).toEqual([1_250, 1_250]);
  expect(await countDeadLetters(pool, 'g')).toBe(1_250);
});

test('with an order, dead letters keep their key and lane, and wait behind each other and behind earlier retries', async () => {
  const order = 'attributes.key';
  const ids = await stored.signals(5, (n) => (n === 4 ? {} : { key: 'aabb'[n] }));
  const [a1, a2, b1, b2, none] = ids as [number, number, number, number, number];
  await stored.group({ name: 'g', order });
  await stored.retry('g', b1, { key: 'b' });
  for (const id of [a1, a2, b2, none]) await stored.deadLetter('g', id);
  await retryDeadLetters(pool, 'g');
  const lanes = new Lanes(4, order);
  const retries = await listRetries(pool, 'g');
  const shown = retries.map(({ signal_id, key, lane, due_at }) => [signal_id, key, lane, due_at !== null]);
  expect(shown).toHaveLength(5);
  expect(shown).toEqual(
    expect.arrayContaining([
      [a1, 'a', lanes.laneOf(a1, 'a'), true],
      [a2, 'a', lanes.laneOf(a2, 'a'), false],
      [b2, 'b', lanes.laneOf(b2, 'b'), false],
      [none, null, none % 4, true],
    ]),
  );
});

test('a signal that waits behind a retry is not forgotten when that is done at the same moment', async () => {
  const [done, other, waits] = await stored.signals(3, () => ({ key: 'k' }));
  await stored.group({ name: 'g', order: 'attributes.key' });
  await stored.retry('g', done!, { key: 'k' });
  for (const id of [waits!, other!]) await stored.deadLetter('g', id);
  const [blocker, member] = [await another(), await another('member')];
  await blocker.client.query('BEGIN');
  await blocker.retry('g', other!, { key: 'k', due: 'infinity' });
  const retried = retryDeadLetters(pool, 'g');
  await stored.untilOneWaits('test admin');
  // What a member does after the run.
  const finished = member.client.query(
    `WITH done AS (DELETE FROM signal_retries WHERE signal_id = $1 RETURNING key)
     UPDATE signal_retries SET due_at = clock_timestamp()
     WHERE seq = (SELECT min(seq) FROM signal_retries JOIN done USING (key) WHERE signal_id <> $1)`,
    [done],
  );
  await Promise.race([finished, stored.untilOneWaits('member')]);
  await blocker.client.query('ROLLBACK');
  await Promise.all([retried, finished]);
  expect((await listRetries(pool, 'g')).map(({ signal_id, due_at }) => [signal_id, due_at !== null])).toEqual([
    [waits, true],
    [other, false],
  ]);
});

// --- reset and delete -----------------------------------------------------------------------------------------------------

test('a reset frees all lanes at the new place, and takes members and retries away', async () => {
  const ids = await stored.signals(6);
  const at = await stored.snapshot();
  await stored.group({ name: 'g', free: [{ lanes: [2, 3], at, takenAt }] });
  await stored.group({ name: 'other' });
  await stored.member({ group: 'g', name: 'm', epoch: 1, cursors: [{ lanes: [0, 1], at, takenAt }] });
  await stored.member({ group: 'other', name: 'm', epoch: 1, cursors: [] });
  for (const group of ['g', 'other']) await stored.retry(group, ids[0]!);
  await stored.deadLetter('g', ids[1]!);
  const listening = await another();
  const notified = new Promise((resolve) => listening.client.once('notification', resolve));
  await listening.client.query('LISTEN signals_groups');
  expect(await resetGroup(pool, 'g', 'earliest')).toEqual({ at: '3:3:', retries: 1, members: 1 });
  expect(await notified).toMatchObject({ payload: 'g' });
  const [g, other] = (await listGroups(pool)) as [GroupState, GroupState];
  expect(g).toMatchObject({ lag_rows: 6, members: [], retries: 0, dead_letters: 1 });
  expect([other.members.length, other.retries]).toEqual([1, 1]);
  const [row] = await stored.rows(`SELECT free, left_at IS NOT NULL AS left FROM signal_groups WHERE name = 'g'`);
  expect(row).toEqual({ free: [{ lanes: ALL, at: '3:3:', takenAt: expect.any(Number) }], left: true });
  expect(await resetGroup(pool, 'g', 'latest')).toMatchObject({ retries: 0, members: 0 });
  expect(await lagOf('g')).toBe(0);
  await stored.signals(2);
  expect(await lagOf('g')).toBe(2);
});

test('a reset to a moment begins at the first row of it, and skips no transaction that is still open', async () => {
  const at = (second: number) => new Date(Date.UTC(2026, 3, 2, 16, 0, second));
  const insert = (connection: StoredGroups, second: number) =>
    connection.client.query(`INSERT INTO signals ("timestamp", signal_name, signal_value) VALUES ($1, 's', 1)`, [
      at(second),
    ]);
  const [late, later] = [await another(), await another()];
  await stored.group({ name: 'g' });
  await insert(stored, 1);
  await late.client.query('BEGIN');
  await insert(late, 30);
  await insert(stored, 10);
  await insert(stored, 20);
  await later.client.query('BEGIN');
  await insert(later, 40);
  expect((await resetGroup(pool, 'g', at(20))).at).toMatch(/^(\d+):\d+:\1$/); // one transaction is open before it
  expect(await lagOf('g')).toBe(1);
  await late.client.query('COMMIT');
  expect(await lagOf('g')).toBe(2);
  await later.client.query('COMMIT');
  expect(await lagOf('g')).toBe(3);
  await resetGroup(pool, 'g', at(10));
  expect(await lagOf('g')).toBe(4); // 30 was begun before it, and is over
  await resetGroup(pool, 'g', at(41));
  expect(await lagOf('g')).toBe(0);
});

test('a group is deleted with all that is its own, once no member is alive', async () => {
  const ids = await stored.signals(2);
  for (const name of ['g', 'other']) {
    await stored.group({ name });
    await stored.retry(name, ids[0]!);
    await stored.deadLetter(name, ids[1]!);
  }
  await stored.member({ group: 'g', name: 'gone', epoch: 1, cursors: [], lease: -1 });
  await stored.member({ group: 'g', name: 'alive-1', epoch: 2, cursors: [] });
  await expect(deleteGroup(pool, 'g')).rejects.toThrow(
    'the group g has members that are alive: alive-1. Stop them first',
  );
  expect(await listGroups(pool)).toHaveLength(2);
  await stored.client.query('UPDATE signal_group_members SET lease_until = now()');
  expect(await deleteGroup(pool, 'g')).toEqual({ retries: 1, dead_letters: 1 });
  expect(await listGroups(pool)).toMatchObject([{ name: 'other', retries: 1, dead_letters: 1 }]);
  expect(await stored.rows('SELECT FROM signal_group_members')).toEqual([]);
});
