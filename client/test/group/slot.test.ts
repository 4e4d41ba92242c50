/** Broadcast replicas that remember where they stood. */
import { createPool } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterEach, beforeEach, expect, onTestFailed, onTestFinished, test } from 'vitest';
import { Group, Slot, type SlotOptions } from '../../src/index.ts';

let database: TestDatabase;
let client: pg.Client;
const stops: (() => Promise<void>)[] = [];

beforeEach(async () => {
  database = await createTestDatabase();
  client = new pg.Client(database.url);
  await client.connect();
});

afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
  await client.end();
  await database.drop();
});

function start(options: SlotOptions = {}) {
  const pool = createPool({ connectionString: database.url, application_name: 'replica', max: 4 });
  let log = '';
  const write = (message: string, fields?: object) => {
    log += `${message} ${JSON.stringify(fields ?? {})}\n`;
  };
  onTestFailed(() => void process.stdout.write(log));
  const ids: number[] = [];
  const logger = { info: write, warn: write, error: write };
  const slot = new Slot(pool, { logger, leaseMs: 2_000, checkpointMs: 100, ...options }, ({ id }) => {
    ids.push(id);
  });
  const stop = new AbortController();
  const done = slot.start(stop.signal).finally(() => pool.end());
  const replica = {
    slot,
    ids,
    pool,
    get log() {
      return log;
    },
    listening: () => expect.poll(() => slot.proofAgeMs, { timeout: 10_000 }).toBeDefined(),
    received: (count: number) => expect.poll(() => ids.length, { timeout: 10_000 }).toBe(count),
    stop: () => {
      stop.abort();
      return done;
    },
  };
  stops.push(replica.stop);
  return replica;
}

const insert = (count: number) =>
  client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT 'test', n FROM generate_series(1, $1::int) AS n`,
    [count],
  );
const upTo = (count: number, from = 1) => Array.from({ length: count }, (_, at) => from + at);

test('each of ten replicas that start at the same moment has a slot of its own, and receives everything', async () => {
  const replicas = upTo(10).map(() => start());
  await Promise.all(replicas.map((each) => each.listening()));
  expect(new Set(replicas.map(({ slot }) => slot.name))).toEqual(new Set(upTo(10).map((n) => `consumer-${n}`)));
  await insert(100);
  for (const each of replicas) {
    await each.received(100);
    expect(each.ids).toEqual(upTo(100));
  }
});

test('a replica goes on where the one before it stopped: nothing twice, nothing missing', async () => {
  const first = start();
  await first.listening();
  await insert(100);
  await first.received(100);
  await first.stop();
  await insert(50);
  const second = start();
  await second.received(50);
  expect(second.slot.name).toBe('consumer-1');
  expect(second.ids).toEqual(upTo(50, 101));
});

test('a replica whose slot another one has taken goes on in a new slot, from where it stood', async () => {
  const first = start();
  await first.listening();
  await insert(10);
  await first.received(10);
  await client.query("UPDATE signal_group_members SET lease_until = 'epoch', backend = -1");
  const second = start();
  await second.listening();
  await expect.poll(() => first.slot.name).toBe('consumer-2');
  await insert(10);
  await first.received(20);
  expect(second.slot.name).toBe('consumer-1');
  expect(first.ids).toEqual(upTo(20));
  await expect.poll(() => second.ids.slice(-10)).toEqual(upTo(10, 11));
});

test('a slot that nobody holds expires, and its replica says what is given up', async () => {
  const first = start();
  await first.listening();
  await first.stop();
  await insert(7);
  await client.query("UPDATE signal_groups SET left_at = now() - interval '2 h'");
  const second = start();
  await second.listening();
  await expect.poll(() => second.log).toMatch(/A slot has expired.*"slot":"consumer-1".*"signals":7/);
});

test('what has expired is not taken, and slots of another prefix do not expire with it', async () => {
  const named = (prefix: string) => start({ prefix });
  const before = [named('consumer'), named('consumer-eu'), named('reports')];
  await Promise.all(before.map((each) => each.listening()));
  await Promise.all(before.map((each) => each.stop()));
  await insert(3);
  await client.query("UPDATE signal_groups SET left_at = now() - interval '2 h'");
  const slots = async () => (await client.query('SELECT name, id FROM signal_groups ORDER BY name')).rows;
  const [own, ...others] = await slots();
  const again = start();
  await again.listening();
  expect(await slots()).toEqual([{ name: own.name, id: expect.not.stringMatching(`^${own.id}$`) }, ...others]);
  expect(again.ids).toEqual([]);
});

test("a group that has the name of a slot is in no one's way", async () => {
  const member = new AbortController();
  const pool = createPool({ connectionString: database.url, application_name: 'member', max: 4 });
  const group = new Group(pool, { name: 'consumer-1' }, () => {});
  const ended = group.start(member.signal).finally(() => pool.end());
  stops.push(() => ended);
  onTestFinished(() => member.abort());
  await expect.poll(() => group.isMember).toBe(true);
  const replica = start();
  await replica.listening();
  expect(replica.slot.name).toBe('consumer-2');
  member.abort();
});

test('a database that is away for longer than a lease changes nothing', async () => {
  const replicas = [start({ leaseMs: 500 }), start({ leaseMs: 500 })];
  await Promise.all(replicas.map((each) => each.listening()));
  const names = replicas.map(({ slot }) => slot.name);
  await insert(50);
  await Promise.all(replicas.map((each) => each.received(50)));
  const server = new pg.Client(`${new URL('/postgres', database.url)}`);
  await server.connect();
  onTestFinished(() => server.end());
  const name = pg.escapeIdentifier(client.database!);
  await server.query(`ALTER DATABASE ${name} WITH ALLOW_CONNECTIONS false`);
  await client.query(
    'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()',
    [client.database],
  );
  await insert(50);
  await expect
    .poll(async () => (await client.query('SELECT FROM signal_group_members WHERE lease_until < now()')).rows.length, {
      timeout: 10_000,
    })
    .toBe(2);
  await server.query(`ALTER DATABASE ${name} WITH ALLOW_CONNECTIONS true`);
  for (const each of replicas) {
    await each.received(100);
    expect(each.ids).toEqual(upTo(100));
  }
  await insert(1);
  for (const each of replicas) await each.received(101);
  expect(replicas.map(({ slot }) => slot.name)).toEqual(names);
});

test('a prefix that leaves no room for a number is refused', async () => {
  const pool = createPool({ connectionString: database.url, application_name: 'replica', max: 4 });
  onTestFinished(() => pool.end());
  expect(() => new Slot(pool, { prefix: 'x'.repeat(53) })).toThrow('prefix: expected 1 to 52 letters');
});
