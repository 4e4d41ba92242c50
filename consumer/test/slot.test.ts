/** Consumers that hold a slot: services that go on where another one stood. */
import { once } from 'node:events';
import { createPool } from '@pg-signals/db';
import { createRoles } from '@pg-signals/db/roles';
import { asRole, createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { listGroups } from 'pg-signals';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
import { readConsumerSettings } from '../src/index.ts';
import { ConsumerProcess, until, type Variables } from './consumerProcess.ts';

let database: TestDatabase;
let pool: pg.Pool;
const replicas: ConsumerProcess[] = [];
/** Changes with the log of any replica. */
const logged = new Condition();
beforeEach(async () => {
  database = await createTestDatabase();
  pool = createPool({ connectionString: database.url, application_name: 'test' });
});
afterEach(async () => {
  await Promise.all(replicas.splice(0).map((each) => each.killed()));
  await pool.end();
  await database.drop();
});

const variables = (own: Variables = {}): Variables => ({
  DATABASE_URL: database.url,
  LISTEN_PROOF_INTERVAL_MS: '500',
  CONSUMER_SLOT: 'auto',
  CONSUMER_GROUP_LEASE_MS: '1500',
  CONSUMER_GROUP_CHECKPOINT_MS: '100',
  ...own,
});

/** Ready where its log is read; a log that is not read may be full already. */
async function start(own: Variables = {}, isRead = true): Promise<ConsumerProcess> {
  const replica = new ConsumerProcess(variables(own), logged, isRead);
  replicas.push(replica);
  const { url } = replica;
  await until(async () => (await fetch(`${await url()}/readyz`)).status === 200);
  return replica;
}

/** Resolves when its log, which may come later than its first answer, says that it holds this slot. */
async function holds(replica: ConsumerProcess, slot: string): Promise<void> {
  await logged.until(() => new RegExp(`"Holds a slot".*"slot":"${slot}"`).test(replica.log));
}

async function insert(rows: number, padding = 0): Promise<number[]> {
  const inserted = await pool.query<{ id: string }>(
    `INSERT INTO signals (signal_name, signal_value, attributes)
     SELECT 'a', n, jsonb_build_object('padding', repeat('x', $2)) FROM generate_series(1, $1::int) AS n RETURNING id`,
    [rows, padding],
  );
  return inserted.rows.map(({ id }) => Number(id));
}

async function metrics(replica: ConsumerProcess): Promise<string> {
  return (await fetch(`${await replica.url()}/metrics`)).text();
}

/** What is not stored as received, of the only slot. */
const lag = async () => (await listGroups(pool))[0]!.lag_rows;

test('a service that stops in order and the next one log each signal once', async () => {
  const first = await start();
  await holds(first, 'consumer-1');
  const ids = await insert(100);
  await logged.until(() => first.ids.length >= 100);
  const more = insert(3_000);
  first.child.kill('SIGTERM');
  expect(await once(first.child, 'exit')).toEqual([0, null]);
  ids.push(...(await more), ...(await insert(10)));
  const second = await start();
  await logged.until(() => first.ids.length + second.ids.length >= ids.length);
  expect([...first.ids, ...second.ids]).toEqual(ids);
});

test('lines that were only in the memory of a killed service are logged by the next one', async () => {
  const first = await start({}, false);
  const before = await insert(10); // which the pipe takes
  await until(async () => (await lag()) === 0);
  const ids = [...before, ...(await insert(300, 1_000))];
  const answer = async () => (await fetch(`${await first.url()}/readyz`)).text();
  await until(async () => (await answer()).includes('log is not being read'));
  // As long as a checkpoint would take.
  await until(async () => {
    const { rows } = await pool.query('SELECT FROM signal_group_members WHERE lease_until < clock_timestamp()');
    return rows.length === 1;
  });
  first.child.kill('SIGKILL');
  first.read();
  await once(first.child.stdout!, 'end');
  expect(first.ids.length).toBeGreaterThan(50);
  const second = await start();
  await logged.until(() => new Set([...first.ids, ...second.ids]).size === ids.length);
  expect(second.ids.filter((id) => before.includes(id))).toEqual([]);
});

test('the slot of a killed service is free at once, whoever it was connected as', async () => {
  await createRoles(database.url);
  const first = await start({ CONSUMER_GROUP_LEASE_MS: '600000' });
  const before = await insert(10);
  await logged.until(() => first.ids.length === 10);
  await until(async () => (await lag()) === 0);
  await first.killed();
  const ids = await insert(10);
  const second = await start({ DATABASE_URL: asRole(database.url, 'signals_consumer') });
  await logged.until(() => second.ids.length === 10);
  await holds(second, 'consumer-1');
  expect([first.ids, second.ids]).toEqual([before, ids]);
});

test('the slot of a killed service is free also where another connection has its process id', async () => {
  const first = await start({ CONSUMER_GROUP_LEASE_MS: '600000' });
  await insert(10);
  await logged.until(() => first.ids.length === 10);
  await until(async () => (await lag()) === 0);
  await first.killed();
  const other = new pg.Client(database.url); // it begins after the kill
  await other.connect();
  const { rowCount } = await other.query('UPDATE signal_group_members SET backend = pg_backend_pid()');
  expect(rowCount).toBe(1);
  const second = await start({ CONSUMER_GROUP_LEASE_MS: '600000' });
  await holds(second, 'consumer-1');
  await other.end();
});

test('a service that was frozen past its lease goes on in another slot, and logs each signal once', async () => {
  const frozen = await start();
  const ids = await insert(100);
  await logged.until(() => frozen.ids.length === 100);
  frozen.child.kill('SIGSTOP');
  ids.push(...(await insert(100)));
  await until(async () => {
    const { rows } = await pool.query('SELECT FROM signal_group_members WHERE lease_until < clock_timestamp()');
    return rows.length === 1;
  });
  const other = await start();
  await holds(other, 'consumer-1');
  ids.push(...(await insert(100)));
  await logged.until(() => other.ids.length >= 200);
  frozen.child.kill('SIGCONT');
  await holds(frozen, 'consumer-2');
  ids.push(...(await insert(100)));
  await logged.until(() => frozen.ids.length >= 400 && other.ids.length >= 300);
  expect(frozen.ids).toEqual(ids);
  expect(new Set([...ids.slice(0, 100), ...other.ids])).toEqual(new Set(ids));
});

test('its metrics are those of a listener, and how far its slot is behind', async () => {
  const replica = await start();
  await insert(20);
  await logged.until(() => replica.ids.length === 20);
  const text = await metrics(replica);
  expect(text).toMatch(/^signals_received_total\{source="(notify|catch_up)"\} 20$/m);
  expect(text).toMatch(/^signals_group_lag_rows\{group="consumer-1"\} 0$/m);
  expect(text).toMatch(/^signals_group_lag_seconds\{group="consumer-1"\} 0$/m);
  expect(text).toMatch(/^signals_group_in_flight\{group="consumer-1"\} 0$/m);
});

test('a slot that no one holds expires after CONSUMER_SLOT_TTL, and a line says what that gives up', async () => {
  const [first, second] = [await start({ CONSUMER_SLOT_TTL: '2s' }), await start({ CONSUMER_SLOT_TTL: '2s' })];
  await insert(20);
  await logged.until(() => second.ids.length === 20);
  await until(async () => (await listGroups(pool)).every(({ lag_rows }) => lag_rows === 0));
  await second.killed();
  await insert(7);
  await logged.until(() => first.log.includes('has expired'));
  expect(first.log).toMatch(/"A slot has expired, and its signals are given up".*"slot":"consumer-2".*"signals":7\b/);
  expect((await listGroups(pool)).map(({ name }) => name)).toEqual(['consumer-1']);
});

test('with CONSUMER_GROUP, and without either, there is no slot', async () => {
  const member = await start({ CONSUMER_GROUP: 'workers' });
  await logged.until(() => /"Lanes taken".*"group":"workers"/.test(member.log));
  await start({ CONSUMER_SLOT: '' });
  expect((await listGroups(pool)).map(({ name }) => name)).toEqual(['workers']);
});

test.each([
  [{ CONSUMER_SLOT: 'yes' }, 'CONSUMER_SLOT: expected auto, or nothing, got "yes"'],
  [
    { CONSUMER_SLOT_TTL: '1 hour' },
    'CONSUMER_SLOT_TTL: expected a duration: 90s, 30m, 1h or 2d, for example, got "1 hour"',
  ],
  [{ CONSUMER_SLOT_TTL: '0s' }, 'CONSUMER_SLOT_TTL: expected a duration'],
  [{ PG_POOL_MAX: '2' }, 'PG_POOL_MAX: expected a whole number of at least 3 with CONSUMER_GROUP or CONSUMER_SLOT'],
])('%j is refused', (own, message) => {
  expect(() => readConsumerSettings(variables(own))).toThrow(message);
});

test.each([
  ['90s', 90_000],
  ['30m', 1_800_000],
  ['2d', 172_800_000],
  ['', 3_600_000],
])('a slot is kept for CONSUMER_SLOT_TTL=%s', (CONSUMER_SLOT_TTL, ms) => {
  expect(readConsumerSettings(variables({ CONSUMER_SLOT_TTL })).CONSUMER_SLOT_TTL).toBe(ms);
});
