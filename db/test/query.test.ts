/** One query with a timeout, against a real server and a network that goes silent. */
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import {
  ConnectTimeoutError,
  createPool,
  NoAnswerError,
  NotConnectedError,
  QueryTimeoutError,
  queryWithin,
  withConnection,
} from '../src/index.ts';

let database: TestDatabase;
let proxy: FaultyProxy;
let pool: pg.Pool;
let other: pg.Client;

beforeAll(async () => {
  database = await createTestDatabase();
  proxy = new FaultyProxy(Number(new URL(database.url).port));
  await proxy.start();
  const url = new URL(database.url);
  url.port = String(proxy.port);
  pool = createPool({ connectionString: url.href, application_name: 'query test', max: 1 });
  other = new pg.Client({ connectionString: database.url });
  await other.connect();
});
afterAll(async () => {
  await pool.end();
  await other.end();
  proxy.close();
  await database.drop();
});

const query = (text: string, timeoutMs = 5_000) => queryWithin<[number]>(pool, { text, rowMode: 'array' }, timeoutMs);
const backend = async () => (await query('SELECT pg_backend_pid()'))[0]![0];

/** The query that a backend of ours works on, or undefined. */
async function working(): Promise<string | undefined> {
  const { rows } = await other.query(
    `SELECT query FROM pg_stat_activity WHERE application_name = 'query test' AND state = 'active'`,
  );
  return rows[0]?.query;
}

test('an ERROR is an answer: it is thrown as it came, and the connection stays in the pool', async () => {
  const before = await backend();
  await expect(query('SELECT 1 / 0')).rejects.toMatchObject({ name: 'error', code: '22012' });
  expect(await backend()).toBe(before);
});

test('after the timeout the query is cancelled at the server, and the connection is gone', async () => {
  const before = await backend();
  await expect(query('SELECT pg_sleep(60)', 100)).rejects.toBeInstanceOf(QueryTimeoutError);
  while ((await working()) !== undefined);
  expect(await backend()).not.toBe(before);
});

test('a connection that is lost in the middle says that no answer came', async () => {
  const before = await backend();
  // Expected before it happens: the query may fail before the answer to the one that ends it is here.
  const failed = expect(query('SELECT pg_sleep(60)')).rejects.toBeInstanceOf(NoAnswerError);
  while ((await working()) === undefined);
  await other.query('SELECT pg_terminate_backend($1)', [before]);
  await failed;
  expect(await backend()).not.toBe(before);
});

test('a server that goes silent ends the query after its timeout', async () => {
  await backend();
  const restore = proxy.block('toServer', 'toClient', 'connect');
  await expect(query('SELECT 1', 100)).rejects.toBeInstanceOf(QueryTimeoutError);
  await expect(query('SELECT 1', 100)).rejects.toBeInstanceOf(ConnectTimeoutError);
  restore();
  expect(await query('SELECT 1')).toEqual([[1]]);
});

test('the timeout of the pool itself, where it is the shorter one, is the same error', async () => {
  const url = new URL(database.url);
  url.port = String(proxy.port);
  const hasty = createPool({ connectionString: url.href, application_name: 'query test', connectionTimeoutMillis: 50 });
  const restore = proxy.block('connect', 'toClient');
  const refused = expect(queryWithin(hasty, { text: 'SELECT 1', rowMode: 'array' }, 10_000)).rejects;
  await refused.toBeInstanceOf(ConnectTimeoutError);
  restore();
  await hasty.end();
});

test('a pool whose connections are all in use has none in time, and is none the worse for it', async () => {
  const release = Promise.withResolvers<void>();
  const holding = withConnection(pool, 60_000, () => release.promise);
  await expect(query('SELECT 1', 50)).rejects.toBeInstanceOf(ConnectTimeoutError);
  release.resolve();
  await holding;
  expect([await query('SELECT 1'), pool.totalCount, pool.idleCount]).toEqual([[[1]], 1, 1]);
});

test('a server that refuses connections is not connected: nothing was sent', async () => {
  const closed = createPool({ connectionString: 'postgres://u:p@127.0.0.1:1/d', application_name: 'query test' });
  await expect(queryWithin(closed, { text: 'SELECT 1', rowMode: 'array' }, 1_000)).rejects.toBeInstanceOf(
    NotConnectedError,
  );
  await closed.end();
});
