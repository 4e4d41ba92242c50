/** Groups as a role with few rights, among odd settings, and among strangers who notify whatever they like. */
import { asRole } from '@pg-signals/local/testing';
import { expect, test } from 'vitest';
import { MemberProcess } from '../memberProcess.ts';
import { watchLanes } from '../storedLanes.ts';
import { upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

const DECOYS = `
  CREATE SCHEMA decoys;
  CREATE TABLE decoys.signals (LIKE public.signals);
  CREATE TABLE decoys.signal_groups (LIKE public.signal_groups);
  CREATE TABLE decoys.signal_group_members (LIKE public.signal_group_members);
  CREATE TABLE decoys.signal_retries (LIKE public.signal_retries);
  CREATE TABLE decoys.dead_letters (LIKE public.dead_letters);
  GRANT USAGE ON SCHEMA decoys TO PUBLIC;
  GRANT ALL ON ALL TABLES IN SCHEMA decoys TO PUBLIC`;

test.each([
  'default_transaction_read_only=on',
  'default_transaction_isolation=serializable',
  'default_transaction_isolation=repeatable\\ read',
  'default_transaction_deferrable=on',
  'timezone=Asia/Kolkata',
  'datestyle=SQL,\\ DMY',
  'search_path=decoys',
  'lock_timeout=50ms',
  'idle_in_transaction_session_timeout=1s',
  'statement_timeout=1s',
  'row_security=off',
  'synchronous_commit=off',
  'extra_float_digits=-5',
])(
  'with %s, members that may do no more than signals_consumer share, retry, hand over, and repeat nothing',
  async (setting) => {
    await groups.client.query(DECOYS);
    const address = new URL(asRole(groups.url, 'signals_consumer'));
    address.searchParams.set('options', `${address.searchParams.get('options')} -c ${setting}`);
    const group = groups.make({ url: address.href, from: 'earliest', retries: 1 });
    let failed = 0;
    const failing = ({ id }: { id: number }) => {
      if (id === 7 && failed++ === 0) throw new Error('once');
      if (id === 8) throw new Error('always');
    };
    const members = [group.join({}, failing), group.join({}, failing)];
    await Promise.all(members.map((member) => member.lanes(32)));
    await groups.insert(200);
    await group.until(() => group.runs.length === 202);
    await group.until(() => group.lines('given up') === 1);
    await members[0]!.stop();
    await members[1]!.lanes(64);
    await groups.insert(100);
    await group.until(() => group.runs.length === 302);
    await group.stop();
    expect([...new Set(group.ids)]).toEqual(upTo(300));
    expect(group.log).not.toMatch(/could not|not stored|Lost|Not in the group/);
  },
);

test('a flood of notifications of groups costs the database few looks', async () => {
  const group = groups.make();
  const member = group.join();
  let sent = 0;
  const seen = new WeakSet<object>();
  member.pool.on('acquire', (client) => {
    if (seen.has(client)) return;
    seen.add(client);
    const query = client.query.bind(client) as (...values: unknown[]) => unknown;
    client.query = ((...values: unknown[]) => {
      sent++;
      return query(...values);
    }) as typeof client.query;
  });
  await member.lanes(64);
  await groups.insert(10);
  await group.until(() => group.runs.length === 10);
  const [before, began] = [sent, performance.now()];
  for (let each = 0; each < 2_000; each++) {
    await groups.client.query(`SELECT pg_notify('signals_groups', $1)`, [each % 2 ? 'workers' : `x${each}`]);
  }
  await groups.insert(10);
  await group.until(() => group.runs.length === 20);
  const seconds = (performance.now() - began) / 1_000;
  expect(sent - before).toBeLessThan(20 + seconds * 60);
});

test('a stranger who notifies rows that are still to come takes none away, and breaks nothing', async () => {
  const group = groups.make({ proofIntervalMs: 100, retries: 1 });
  const member = group.join();
  const spare = group.join({ lanes: 64 });
  await Promise.all([member.lanes(32), spare.lanes(32)]);
  const { rows } = await groups.client.query('SELECT pg_current_xact_id()::text::bigint AS xid');
  const xid = Number(rows[0].xid);
  const forge = (payload: string) => groups.client.query(`SELECT pg_notify('new_signals', $1)`, [payload]);
  for (let id = 1; id <= 50; id++) {
    const row = { id, timestamp: '2025-01-01T00:00:00Z', signal_name: 'forged', signal_value: 1, attributes: {} };
    await forge(JSON.stringify({ ...row, xid: String(xid + 100) }));
    await forge(JSON.stringify({ xid: String(xid + id), ...row }));
    await forge(`{"id":${id},"xid":"${xid + 101}","truncated":true}`);
  }
  for (const payload of ['', '{', 'null', '{"id":1e400}', '{"id":-5,"xid":"1"}', '{"xid":"x","id":"1"}'])
    await forge(payload);
  for (let each = 0; each < 120; each++) await groups.insert(1);
  const real = () => group.ids.length;
  await group.until(() => real() >= 120 && upTo(120).every((id) => group.ids.includes(id)));
  const forged = group.runs.length - 120;
  expect(forged).toBeLessThanOrEqual(100);
  await member.stop();
  await spare.stop();
  await groups.insert(10);
  group.join();
  await group.until(() => upTo(10, 121).every((id) => group.ids.includes(id)));
});

test('a member whose clock is wrong by a day: leases go by the clock of the database', async () => {
  const watch = await groups.connect();
  const lanes = watchLanes(watch);
  const group = groups.make();
  const ahead = new MemberProcess(groups.url, { clockMs: 86_400_000 });
  const behind = new MemberProcess(groups.url, { clockMs: -86_400_000 });
  const member = group.join();
  const counts = () => [ahead.laneCount, behind.laneCount, member.group.laneCount].sort();
  await expect.poll(counts, { timeout: 15_000 }).toEqual([21, 21, 22]);
  await groups.insert(300);
  const all = () => [...ahead.ids, ...behind.ids, ...group.ids];
  await group.until(() => all().length === 300);
  ahead.kill('SIGTERM');
  await ahead.ended;
  behind.kill('SIGKILL');
  await member.lanes(64);
  await groups.insert(300);
  await group.until(() => new Set(all()).size === 600);
  expect(`${ahead.log}${behind.log}${group.log}`).not.toMatch(/Lost|Not in the group/);
  await lanes.stop();
});

test('a group that is reset, or deleted, while members run: they join again, and go on', async () => {
  const group = groups.make();
  const members = [group.join(), group.join(), group.join({ lanes: 64 })];
  const even = () =>
    expect.poll(() => members.map((each) => each.group.laneCount).sort(), { timeout: 15_000 }).toEqual([21, 21, 22]);
  await even();
  await groups.insert(100);
  await group.until(() => group.runs.length === 100);
  await groups.client.query(`BEGIN;
    UPDATE signal_groups SET free = jsonb_build_array(jsonb_build_object('lanes', (SELECT jsonb_agg(lane) FROM generate_series(0, 63) AS lane), 'at', '3:3:', 'takenAt', 0));
    DELETE FROM signal_group_members;
    NOTIFY signals_groups, 'workers';
    COMMIT`);
  await group.until(() => group.runs.length === 200);
  await even();
  await groups.client.query('DELETE FROM signal_groups');
  await group.until(() => group.lines('Lost its lanes') === 6);
  await even();
  await groups.insert(100);
  await group.until(() => upTo(100, 101).every((id) => group.ids.includes(id)));
  const last = group.runs.filter(({ id }) => id > 100);
  expect(last.length).toBe(100);
});

test('one lane, and more members than lanes: one works, and the next takes over', async () => {
  const group = groups.make({ lanes: 1 });
  const members = [group.join(), group.join(), group.join()];
  const sum = () => members.reduce((total, each) => total + each.group.laneCount, 0);
  for (let round = 0; round < 3; round++) {
    await expect.poll(sum, { timeout: 15_000 }).toBe(1);
    await groups.insert(10);
    await group.until(() => group.runs.length === 10 * (round + 1));
    const owner = members.findIndex((each) => each.group.laneCount === 1);
    await members.splice(owner, 1)[0]!.stop();
  }
  expect(group.ids).toEqual(upTo(30));
});

test('while a batch commits again and again, lanes that are taken are in the database all the while', async () => {
  const watcher = await groups.connect();
  const group = groups.make({ checkpointMs: 10, leaseMs: 60_000, from: 'earliest' });
  const handleBatch = async () => {};
  const first = group.join({}, { handleBatch });
  await first.lanes(64);
  const second = group.join({}, { handleBatch });
  await Promise.all([first.lanes(32), second.lanes(32)]);
  // Taking waits in the middle, for the keys that are held: batches go on meanwhile.
  const lock = await groups.connect();
  await lock.query('BEGIN; LOCK signal_retries IN ACCESS EXCLUSIVE MODE');
  const lanes = watchLanes(watcher);
  void second.stop();
  const taking = async () =>
    (
      await groups.client.query(
        `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%DISTINCT key%'`,
      )
    ).rowCount;
  await expect.poll(taking, { timeout: 15_000, interval: 10 }).toBe(1);
  for (let each = 0; each < 10; each++) await groups.insert(100);
  await new Promise((resolve) => setTimeout(resolve, 300));
  await lock.query('COMMIT');
  await first.lanes(64);
  await lanes.stop();
});
