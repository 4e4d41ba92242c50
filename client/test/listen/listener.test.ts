/** A listener as its user sees it: signals in, callbacks called, connection lost and found. */

import { createPool } from '@pg-signals/db';
import { expect, test } from 'vitest';
import { Listener } from '../../src/index.ts';
import { useListeners, Writer } from '../testListener.ts';

const listeners = useListeners();
const { listening } = listeners;

test('every listener delivers every signal as it was inserted', async () => {
  const both = await Promise.all([listening(), listening()]);
  await listeners.writer.client.query(
    `INSERT INTO signals ("timestamp", signal_name, signal_value, attributes) VALUES
       ('2026-04-02T16:23:17.123456Z', 'temperature', 21.5, '{"room": "kitchen"}'), ('2026-04-02T16:23:17Z', 'whole second', 1, '{}')`,
  );
  for (const { received, signals } of both) {
    await received(2);
    expect(signals).toEqual([
      {
        id: expect.any(Number),
        timestamp: '2026-04-02T16:23:17.123456+00:00',
        signal_name: 'temperature',
        signal_value: 21.5,
        attributes: { room: 'kitchen' },
        xid: expect.stringMatching(/^\d+$/),
      },
      {
        id: expect.any(Number),
        timestamp: '2026-04-02T16:23:17+00:00',
        signal_name: 'whole second',
        signal_value: 1,
        attributes: {},
        xid: expect.stringMatching(/^\d+$/),
      },
    ]);
  }
});

test('a callback that throws or rejects is logged and stops neither the others nor the listener', async () => {
  const second: number[] = [];
  const pool = createPool({ connectionString: listeners.url, application_name: 'callbacks', max: 2 });
  const abort = new AbortController();
  const done = Promise.withResolvers<void>();
  const started = Promise.withResolvers<void>();
  let failures = 0;
  const listener = new Listener(
    pool,
    {
      observer: {
        listening: (now) => now && started.resolve(),
        latency: () => second.length === 2 && done.resolve(),
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
  const ids = await listeners.writer.insert(2);
  await done.promise;
  expect(second).toEqual(ids);
  expect(failures).toBe(2);
  abort.abort();
  await listened;
  await pool.end();
});

test('a payload that is no signal is logged with its beginning, counted and skipped', async () => {
  const listener = await listening();
  await listeners.writer.client.query(
    `SELECT pg_notify('new_signals', 'hello' || repeat('x', 300)), pg_notify('new_signals', '{"id":"7"}')`,
  );
  await listeners.writer.insert();
  await listener.received(1);
  expect(listener.counts.invalidPayload).toBe(2);
  expect(listener.log.match(/WARN A payload could not be read, skipping it/g)).toHaveLength(2);
  expect(listener.log).toContain(`payload=hello${'x'.repeat(195)}\n`);
});

test('stopped, it resolves with the connection back in the pool and UNLISTEN done', async () => {
  const pool = createPool({ connectionString: listeners.url, application_name: 'stopped', max: 2 });
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
  await listeners.writer.insert();
  await began.promise;
  let stopped = false;
  const stopping = listener.stop().then(() => {
    stopped = true;
  });
  await listeners.writer.client.query('SELECT 1'); // a round trip later it still waits
  expect(stopped).toBe(false);
  work.resolve();
  await stopping;
});

test('it may start before its database, and says what it does about it', async () => {
  const url = new URL(listeners.url);
  url.pathname = '/not_there_yet';
  const listener = listeners.start({ url: url.href });
  await listener.happened('retrying', 2);
  expect(listener.retries[1]).toEqual({ reason: 'database "not_there_yet" does not exist', attempt: 3 });
  await listeners.writer.client.query(`CREATE DATABASE not_there_yet TEMPLATE template0`);
  const early = await Writer.connect(url.href);
  await listener.listening();
  await early.end();
  await listeners.stop();
  await listeners.writer.client.query(`DROP DATABASE not_there_yet WITH (FORCE)`);
});

test('an option that is no whole number is refused at once', () => {
  const pool = createPool({ connectionString: listeners.url, application_name: 'options' });
  expect(() => new Listener(pool, { bufferMax: 0 })).toThrow('bufferMax: expected a whole number of at least 1, got 0');
  expect(() => new Listener(pool, { pollMs: Number.NaN })).toThrow(
    'pollMs: expected a whole number of at least 1, got NaN',
  );
  expect(() => new Listener(pool, { bufferMax: Infinity })).toThrow(RangeError);
});

test('a pool of one connection is refused at once', () => {
  const pool = createPool({ connectionString: listeners.url, application_name: 'one', max: 1 });
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
  const ids = await listeners.writer.insert(50);
  await listener.received(50);
  expect(listener.ids).toEqual(ids);
  expect(most).toBe(3);
});
