import { once } from 'node:events';
import type { Socket } from 'node:net';
import { createServer } from 'node:net';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import type pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { createPool } from '../src/pool.ts';

let database: TestDatabase;
const pools: pg.Pool[] = [];
const errors: string[] = [];

function pool(connectionString = database.url, more = {}) {
  const made = createPool({
    connectionString,
    application_name: 'pool test',
    onConnectionError: (error) => errors.push(error.message),
    ...more,
  });
  pools.push(made);
  return made;
}

beforeAll(async () => {
  database = await createTestDatabase();
});
afterEach(async () => {
  await Promise.all(pools.splice(0).map((made) => made.end()));
  errors.length = 0;
});
afterAll(() => database.drop());

test('its connections are named', async () => {
  const { rows } = await pool().query(`SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()`);
  expect(rows).toEqual([{ application_name: 'pool test' }]);
});

test('an idle connection that is killed is reported once and replaced', async () => {
  const victim = pool();
  const { rows } = await victim.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const reported = once(victim, 'error');
  await pool().query('SELECT pg_terminate_backend($1)', [rows[0]!.pid]);
  await reported;
  expect(errors).toEqual([expect.stringContaining('terminating connection')]);
  expect((await victim.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
});

test('a connection that is killed while in use is reported and replaced', async () => {
  const victim = pool();
  const client = await victim.connect();
  const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  const reported = once(client, 'error');
  await pool().query('SELECT pg_terminate_backend($1)', [rows[0]!.pid]);
  await reported;
  client.release(true);
  expect(errors.length).toBeGreaterThan(0);
  expect((await victim.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
});

test('a server that accepts and never answers fails the connection after its timeout', async () => {
  const sockets: Socket[] = [];
  const silent = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const { port } = silent.address() as { port: number };
  const stuck = pool(`postgres://me:secret@127.0.0.1:${port}/db`, { connectionTimeoutMillis: 100 });
  await expect(stuck.query('SELECT 1')).rejects.toThrow(/timeout/);
  for (const socket of sockets) socket.destroy();
  silent.close();
});
