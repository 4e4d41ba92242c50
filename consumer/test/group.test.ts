/** Consumers as members of a group: services that share the signals, with their log, health and metrics. */
import { once } from 'node:events';
import { createPool } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import { createLogger, type Service } from '@pg-signals/runtime';
import type pg from 'pg';
import { listDeadLetters, showGroup } from 'pg-signals';
import { afterEach, beforeEach, expect, onTestFailed, test } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
import { readConsumerSettings, startConsumer } from '../src/index.ts';
import type { ConsumerCallback } from '../src/received.ts';
import { ConsumerProcess, until, type Variables } from './consumerProcess.ts';

let database: TestDatabase;
let pool: pg.Pool;
const processes: MemberProcess[] = [];
const services: Service[] = [];
/** Changes with the log of any process. */
const logged = new Condition();
beforeEach(async () => {
  database = await createTestDatabase();
  pool = createPool({ connectionString: database.url, application_name: 'test' });
});
afterEach(async () => {
  await Promise.all([
    ...services.splice(0).map((service) => service.stop()),
    ...processes.splice(0).map((each) => each.killed()),
  ]);
  await pool.end();
  await database.drop();
});

const variables = (own: Variables): Variables => ({
  DATABASE_URL: database.url,
  PORT: '0',
  LOG_FORMAT: 'json',
  LISTEN_PROOF_INTERVAL_MS: '500',
  CONSUMER_GROUP: 'workers',
  CONSUMER_GROUP_LEASE_MS: '1500',
  CONSUMER_GROUP_CHECKPOINT_MS: '100',
  ...own,
});

/** A member as a process of its own. */
class MemberProcess extends ConsumerProcess {
  constructor(own: Variables = {}, isRead = true) {
    super(variables(own), logged, isRead);
    processes.push(this);
  }

  lanes = async (count: number) => until(async () => (await metric(await this.url(), 'lanes')) === count);
}

/** In this process, with callbacks. Its log is that of one member. */
async function start(own: Variables, ...callbacks: ConsumerCallback[]) {
  const member = { url: '', log: '' };
  const write = (lines: string) => {
    member.log += lines;
  };
  onTestFailed(() => void process.stderr.write(`${member.log.slice(-3_000)}\n`));
  const settings = readConsumerSettings(variables(own));
  const service = await startConsumer(settings, createLogger({ write }), ...callbacks);
  services.push(service);
  member.url = service.url;
  return member;
}

async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^signals_group_${name}{group="workers"} (\\S+)`, 'm').exec(text)?.[1]);
}

async function readiness(url: string): Promise<{ status: number; detail?: string }> {
  const response = await fetch(`${url}/readyz`);
  return { status: response.status, detail: ((await response.json()) as { detail?: string }).detail! };
}

const isReady = (url: string) => until(async () => (await readiness(url)).status === 200);

async function insert(rows: number, padding = 0): Promise<number[]> {
  const inserted = await pool.query<{ id: string }>(
    `INSERT INTO signals (signal_name, signal_value, attributes)
     SELECT 'a', n, jsonb_build_object('padding', repeat('x', $2)) FROM generate_series(1, $1::int) AS n RETURNING id`,
    [rows, padding],
  );
  return inserted.rows.map(({ id }) => Number(id));
}

/** What no member has stored as handled. */
const lag = async () => (await showGroup(pool, 'workers')).group.lag_rows;

const sorted = (ids: readonly number[]) => [...ids].sort((a, b) => a - b);

test('services share the signals, and one that stops in order repeats and misses nothing', async () => {
  const [first, second] = [new MemberProcess(), new MemberProcess()];
  await Promise.all([first.lanes(32), second.lanes(32)]);
  const ids = await insert(100);
  const all = () => [...first.ids, ...second.ids];
  await logged.until(() => all().length >= 100);
  expect(sorted(all())).toEqual(ids);
  expect(first.ids.length).toBeGreaterThan(20);
  expect(second.ids.length).toBeGreaterThan(20);

  const more = insert(3_000);
  first.child.kill('SIGTERM');
  expect(await once(first.child, 'exit')).toEqual([0, null]);
  ids.push(...(await more), ...(await insert(10)));
  await logged.until(() => all().length >= ids.length);
  expect(sorted(all())).toEqual(sorted(ids));
});

test('after a kill the other service goes on, and repeats nothing of before the last checkpoint', async () => {
  const [first, second] = [new MemberProcess(), new MemberProcess()];
  await Promise.all([first.lanes(32), second.lanes(32)]);
  const before = await insert(500);
  await until(async () => (await lag()) === 0);
  const after = await insert(400);
  await logged.until(() => first.ids.length > 300);
  await first.killed();
  const isThere = () => new Set([...first.ids, ...second.ids]).size === 900;
  await logged.until(isThere);
  const all = [...first.ids, ...second.ids];
  expect(sorted([...new Set(all)])).toEqual(sorted([...before, ...after]));
  const repeated = all.filter((id, index) => all.indexOf(id) !== index);
  expect(repeated.filter((id) => before.includes(id))).toEqual([]);
});

test('lines that were only in the memory of a killed service are logged by another', async () => {
  const first = new MemberProcess({ CONSUMER_GROUP_TIMEOUT_MS: '400' }, false);
  await isReady(await first.url());
  const before = await insert(10); // which the pipe takes
  await until(async () => (await lag()) === 0);
  const ids = [...before, ...(await insert(300, 1_000))];
  await until(async () => (await readiness(await first.url())).detail?.includes('log is not being read') ?? false);
  // Without a checkpoint, which would wait for the lines, the lease ends.
  await until(async () => {
    const { rows } = await pool.query('SELECT FROM signal_group_members WHERE lease_until < clock_timestamp()');
    return rows.length === 1;
  });
  expect(await metric(await first.url(), 'handled_total')).toBeGreaterThan(100);
  const kept = await pool.query('SELECT signal_id, last_error FROM signal_retries');
  expect(kept.rows).toEqual([]);
  first.child.kill('SIGKILL');
  first.read(); // at its exit, what is not being read is thrown away
  await once(first.child.stdout!, 'end');
  expect(first.ids.length).toBeGreaterThan(50);

  const second = new MemberProcess();
  await logged.until(() => new Set([...first.ids, ...second.ids]).size === ids.length);
  expect(second.ids.filter((id) => before.includes(id))).toEqual([]);
});

test('a group that was made with other lanes ends the service with a line that says so', async () => {
  const first = new MemberProcess();
  await first.lanes(64);
  const other = new MemberProcess({ CONSUMER_GROUP_LANES: '8' });
  expect(await once(other.child, 'close')).toEqual([1, null]);
  expect(other.log).toMatch(/"error","message":"Could not go on","reason":"the group workers has lanes 64, and .* 8/);
});

test('with more members than lanes, each is ready', async () => {
  const members = await Promise.all([1, 2].map(() => start({ CONSUMER_GROUP_LANES: '1' })));
  for (const { url } of members) await isReady(url);
  await until(async () => (await Promise.all(members.map(({ url }) => metric(url, 'lanes')))).includes(1));
  for (const { url } of members) expect((await readiness(url)).status).toBe(200);
  expect(sorted(await Promise.all(members.map(({ url }) => metric(url, 'lanes'))))).toEqual([0, 1]);
});

test('it is not ready while it reads a backlog, and says how long that is', async () => {
  await insert(30);
  const open = Promise.withResolvers<void>();
  const called = Promise.withResolvers<void>();
  const { url } = await start({ CONSUMER_GROUP_FROM: 'earliest' }, () => {
    called.resolve();
    return open.promise;
  });
  await called.promise;
  expect(await readiness(url)).toEqual({
    status: 503,
    detail: expect.stringMatching(/^Reading a backlog of 30 signals, \d+\.\d s behind\.$/),
  });
  expect(await metric(url, 'lag_rows')).toBe(30);
  expect(await metric(url, 'lag_seconds')).toBeGreaterThan(0);
  expect(await metric(url, 'in_flight')).toBe(1);
  open.resolve();
  await isReady(url);
  await until(async () => (await metric(url, 'lag_rows')) === 0);
  expect(await metric(url, 'lag_seconds')).toBe(0);
  expect(await metric(url, 'handled_total')).toBe(30);
});

test('it is not ready before it is a member', async () => {
  const { url } = await start({ DATABASE_URL: 'postgres://127.0.0.1:1/none' });
  expect(await readiness(url)).toEqual({
    status: 503,
    detail: 'Not a member of the group workers now: the log says why, and what is tried next.',
  });
  expect(await metric(url, 'lag_rows')).toBeNaN();
});

test('a signal is handled when all callbacks have succeeded, and the log says which attempt it is', async () => {
  const runs: string[] = [];
  const member = await start(
    { CONSUMER_GROUP_RETRIES: '1' },
    ({ id }, context) => void runs.push(`${id} ${context?.attempt}`),
    ({ signal_value }, context) => {
      if (signal_value === 1 && context?.attempt === 1) throw new Error('not yet');
      if (signal_value === 2) return Promise.reject(new Error('never'));
    },
    () => Promise.reject(new Error('never')).catch(() => {}),
  );
  await isReady(member.url);
  await insert(3);
  await until(async () => (await listDeadLetters(pool, 'workers')).length === 1);
  await until(async () => (await metric(member.url, 'retries_total')) === 2);
  expect(runs.sort()).toEqual(['1 1', '1 2', '2 1', '2 2', '3 1']);
  expect(await metric(member.url, 'dead_letters_total')).toBe(1);
  expect(await listDeadLetters(pool, 'workers')).toMatchObject([{ signal_id: 2, attempts: 2, last_error: 'never' }]);
  expect(member.log.match(/received id=1 .*/g)).toEqual([
    expect.not.stringContaining('attempt'),
    expect.stringMatching(/ attempt=2$/),
  ]);
});

test('signals of a key are logged one after another', async () => {
  const [first, second] = ['attributes.room', 'attributes.room'].map(
    (order) => new MemberProcess({ CONSUMER_GROUP_ORDER: order, CONSUMER_GROUP_CONCURRENCY: '4' }),
  );
  await Promise.all([first!.lanes(32), second!.lanes(32)]);
  const { rows } = await pool.query<{ id: string; room: string }>(
    `INSERT INTO signals (signal_name, signal_value, attributes)
     SELECT 'a', n, jsonb_build_object('room', n % 40) FROM generate_series(1, 400) AS n RETURNING id, attributes ->> 'room' AS room`,
  );
  const all = () => [first!.ids, second!.ids];
  await logged.until(() => all().flat().length >= 400);
  const rooms = new Map(rows.map(({ id, room }) => [Number(id), room]));
  for (const ids of all()) {
    const mine = new Set(ids.map((id) => rooms.get(id)));
    for (const room of mine) {
      const order = ids.filter((id) => rooms.get(id) === room);
      expect(order).toEqual(rows.filter((row) => row.room === room).map(({ id }) => Number(id)));
    }
  }
});

test.each([
  [{ CONSUMER_GROUP: 'a b' }, 'CONSUMER_GROUP: expected 1 to 63 letters, digits and _.:-, got "a b"'],
  [{ CONSUMER_GROUP_FROM: 'now' }, 'CONSUMER_GROUP_FROM: expected one of "latest"|"earliest", got "now"'],
  [
    { CONSUMER_GROUP_ORDER: 'room' },
    /^CONSUMER_GROUP_ORDER: expected a column of signals \(id, .*attributes\.room, got "room"$/,
  ],
  [{ CONSUMER_GROUP_ORDER: 'signal_name.a' }, /^CONSUMER_GROUP_ORDER: expected a column/],
  [{ CONSUMER_GROUP_ORDER: 'attributes..a' }, /^CONSUMER_GROUP_ORDER: expected a column/],
  [{ CONSUMER_GROUP_LANES: '2000' }, 'CONSUMER_GROUP_LANES: expected a whole number from 1 to 1024, got "2000"'],
  [
    { PG_POOL_MAX: '2' },
    'PG_POOL_MAX: expected a whole number of at least 3 with CONSUMER_GROUP or CONSUMER_SLOT, got "2"',
  ],
])('%j is refused', (own, message) => {
  expect(() => readConsumerSettings(variables(own))).toThrow(message);
});

test('without a group, two connections are enough, and an empty value is none', () => {
  const settings = readConsumerSettings(variables({ CONSUMER_GROUP: '', CONSUMER_GROUP_ORDER: '', PG_POOL_MAX: '2' }));
  expect(settings).not.toHaveProperty('CONSUMER_GROUP');
  expect(settings).not.toHaveProperty('CONSUMER_GROUP_ORDER');
});
