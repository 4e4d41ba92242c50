/** The listener as an async iterable: the same guarantees, one signal at a time. */
import { createPool, type Signal } from '@pg-signals/db';
import type pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { listen } from '../../src/index.ts';
import { useListeners } from '../testListener.ts';

const listeners = useListeners();
let pool: pg.Pool;
let stop: AbortController;
let listens: PromiseWithResolvers<void>;
beforeEach(() => {
  pool = createPool({ connectionString: listeners.url, application_name: 'test listener', max: 3 });
  stop = new AbortController();
  listens = Promise.withResolvers();
});
afterEach(() => pool.end());

const options = () => ({
  signal: stop.signal,
  proofIntervalMs: 50,
  observer: {
    listening(now: boolean) {
      if (now) listens.resolve();
      else listens = Promise.withResolvers();
    },
  },
});

/** Inserts when the iteration listens; its first `next()` makes it listen. */
const inserted = async (rows = 1) => {
  await listens.promise;
  return listeners.writer.insert(rows);
};

/** Nothing of the iteration is left: its connection is back, and listens no more. */
async function expectIdle(): Promise<void> {
  expect([pool.idleCount, pool.waitingCount]).toEqual([pool.totalCount, 0]);
  for (const client of await Promise.all([pool.connect(), pool.connect(), pool.connect()])) {
    expect((await client.query('SELECT pg_listening_channels()')).rows).toEqual([]);
    client.release();
  }
}

test('it yields every signal in order, until the abort signal ends it', async () => {
  const inserting = inserted(3);
  const signals: Signal[] = [];
  for await (const signal of listen(pool, options())) {
    if (signals.push(signal) === 3) stop.abort();
  }
  expect(signals.map(({ id }) => id)).toEqual(await inserting);
  await expectIdle();
});

test('it ends while it waits for a signal', async () => {
  listens.promise.then(() => stop.abort());
  for await (const signal of listen(pool, options())) expect.fail(`there is no signal, got ${signal.id}`);
  await expectIdle();
});

test('with a signal that has aborted already it ends at once', async () => {
  stop.abort();
  for await (const signal of listen(pool, options())) expect.fail(`there is no signal, got ${signal.id}`);
  await expectIdle();
});

test.each(['break', 'throw'])('left by %s, it gives its connection back', async (way) => {
  const inserting = inserted(5);
  const leave = async () => {
    for await (const signal of listen(pool, options())) {
      if (way === 'break') return signal.id;
      throw new Error(`left at ${signal.id}`);
    }
    return undefined;
  };
  const left = await leave().catch((error: Error) => error.message);
  const [first] = await inserting;
  expect(left).toBe(way === 'break' ? first : `left at ${first}`);
  await expectIdle();
});

test('what comes while the loop is slow or the connection is lost comes once, when the loop asks for it', async () => {
  const inserting = inserted(1);
  const ids: number[] = [];
  for await (const { id } of listen(pool, { ...options(), bufferMax: 10 })) {
    ids.push(id);
    if (ids.length === 1) {
      await inserting;
      await listeners.writer.insert(100);
      await listeners.writer.killBackends();
      await listeners.writer.insert(100);
    }
    if (ids.length === 201) break;
  }
  expect(ids).toEqual(await listeners.writer.committed());
});
