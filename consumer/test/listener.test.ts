/** A listener as its user sees it: signals in, callbacks called, connection lost and found. */

import { createPool } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/db/testing';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { Listener } from '../src/index.ts';
import { startListener, type TestListener, type TestListenerOptions, Writer } from './harness.ts';

let database: TestDatabase;
let writer: Writer;
let running: TestListener[] = [];

beforeAll(async () => {
  database = await createTestDatabase();
});
beforeEach(async () => {
  writer = await Writer.connect(database.url);
});
afterEach(async () => {
  await Promise.all(running.splice(0).map((listener) => listener.stop()));
  await writer.end();
});
afterAll(() => database.drop());

async function listening(options: Partial<TestListenerOptions> = {}): Promise<TestListener> {
  const listener = startListener({ url: database.url, ...options });
  running.push(listener);
  await listener.logged('Starting listener');
  return listener;
}

test('every listener hands every signal on, as it was inserted', async () => {
  const listeners = await Promise.all([listening(), listening()]);
  await writer.client.query(
    `INSERT INTO signals ("timestamp", signal_name, signal_value, attributes) VALUES
       ('2026-04-02T16:23:17.123456Z', 'temperature', 21.5, '{"room": "kitchen"}'), ('2026-04-02T16:23:17Z', 'whole second', 1, '{}')`,
  );
  for (const { received, signals } of listeners) {
    await received(2);
    expect(signals).toEqual([
      {
        id: expect.any(Number),
        timestamp: '2026-04-02T16:23:17.123456+00:00',
        signal_name: 'temperature',
        signal_value: 21.5,
        attributes: { room: 'kitchen' },
      },
      {
        id: expect.any(Number),
        timestamp: '2026-04-02T16:23:17+00:00',
        signal_name: 'whole second',
        signal_value: 1,
        attributes: {},
      },
    ]);
  }
});

test('a callback that throws or rejects is logged and stops neither the others nor the listener', async () => {
  const second: number[] = [];
  const pool = createPool({ connectionString: database.url, application_name: 'callbacks', max: 2 });
  const abort = new AbortController();
  const done = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  let failures = 0;
  const listener = new Listener(
    pool,
    {
      observer: {
        listening: (now) => now && started.resolve(),
        delivered: () => second.length === 2 && done.resolve(),
      },
      proofIntervalMs: 20,
    },
    () => {
      failures++;
      if (failures === 1) throw new Error('thrown');
      return Promise.reject(new Error('rejected'));
    },
    ({ id }) => second.push(id),
  );
  const listened = listener.start(abort.signal);
  await started.promise;
  const ids = await writer.insert(2);
  await done.promise;
  expect(second).toEqual(ids);
  expect(failures).toBe(2);
  abort.abort();
  await listened;
  await pool.end();
});

test('a payload that is no signal is logged with its beginning, counted and skipped', async () => {
  let invalid = 0;
  const listener = await listening({ observer: { invalidPayload: () => invalid++ } });
  await writer.client.query(
    `SELECT pg_notify('new_signals', 'hello' || repeat('x', 300)), pg_notify('new_signals', '{"id":"7"}')`,
  );
  await writer.insert();
  await listener.received(1);
  await listener.logged('WARN A payload could not be read, skipping it', 2);
  expect(invalid).toBe(2);
  expect(listener.log).toContain(`payload=hello${'x'.repeat(195)}\n`);
});

test('stopped, it resolves with the connection back in the pool and UNLISTEN done', async () => {
  const pool = createPool({ connectionString: database.url, application_name: 'stopped', max: 2 });
  const abort = new AbortController();
  const started = Promise.withResolvers<void>();
  const listened = new Listener(pool, { observer: { listening: (now) => now && started.resolve() } }, () => {}).start(
    abort.signal,
  );
  await started.promise;
  abort.abort();
  await listened;
  expect([pool.totalCount, pool.idleCount, pool.waitingCount]).toEqual([2, 2, 0]);
  const clients = await Promise.all([pool.connect(), pool.connect()]);
  for (const client of clients) {
    expect((await client.query('SELECT pg_listening_channels()')).rows).toEqual([]);
    client.release();
  }
  await pool.end();
});

test('stopped while a callback works, it waits for the callback', async () => {
  const work = Promise.withResolvers<void>();
  const began = Promise.withResolvers<void>();
  const listener = await listening({
    callback: () => {
      began.resolve();
      return work.promise;
    },
  });
  running = [];
  await writer.insert();
  await began.promise;
  let stopped = false;
  const stopping = listener.stop().then(() => {
    stopped = true;
  });
  await writer.client.query('SELECT 1'); // a round trip later it still waits
  expect(stopped).toBe(false);
  work.resolve();
  await stopping;
});

test('it may start before its database, and says what it does about it', async () => {
  const url = new URL(database.url);
  url.pathname = '/not_there_yet';
  const listener = startListener({ url: url.href });
  running.push(listener);
  await listener.logged(
    /WARN Not listening, connecting again reason="database \\"not_there_yet\\" does not exist" delay_ms=\d+ attempt=3/,
  );
  await writer.client.query(`CREATE DATABASE not_there_yet TEMPLATE template0`);
  const early = await Writer.connect(url.href);
  await listener.logged('Starting listener');
  await early.end();
  await listener.stop();
  running = [];
  await writer.client.query(`DROP DATABASE not_there_yet WITH (FORCE)`);
});

test('a pool of one connection is refused at once', () => {
  const pool = createPool({ connectionString: database.url, application_name: 'one', max: 1 });
  expect(() => new Listener(pool, () => {})).toThrow('a pool of at least 2 connections');
});

test('signals that come while callbacks work begin in order, at most `concurrency` at a time', async () => {
  let working = 0;
  let most = 0;
  const listener = await listening({
    concurrency: 3,
    callback: async () => {
      most = Math.max(most, ++working);
      await new Promise((resolve) => setImmediate(resolve));
      working--;
    },
  });
  const ids = await writer.insert(50);
  await listener.received(50);
  expect(listener.ids).toEqual(ids);
  expect(most).toBe(3);
});
