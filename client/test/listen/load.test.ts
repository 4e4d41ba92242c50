/** Load that callbacks can't keep up with: bounded memory, a drained socket, and still every signal once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { useListeners } from '../testListener.ts';

const listeners = useListeners();
const { listening } = listeners;

const usage = async () =>
  (await listeners.writer.client.query<{ usage: number }>('SELECT pg_notification_queue_usage() AS usage')).rows[0]!
    .usage;

test('with a callback held up over 200,000 signals the socket is drained, and all come once after it', async () => {
  const hold = Promise.withResolvers<void>();
  let held = false;
  const listener = await listening({
    callback: () => {
      if (held) return undefined;
      held = true;
      return hold.promise;
    },
  });
  const first = (await listeners.writer.insert(1))[0]!;
  await listener.received(1);
  const started = performance.now();
  for (let batch = 0; batch < 200; batch++) await listeners.writer.insert(1_000);
  await listener.happened('behind');
  // The hold is a stretch of time, not a wait for something: the callback is busy for as long as ten seconds in all.
  await sleep(Math.max(0, 10_000 - (performance.now() - started)));
  expect(await usage()).toBe(0);
  expect(listener.ids).toHaveLength(1);
  hold.resolve();
  await listener.received(200_001);
  await listener.happened('level');
  expect(listener.ids.every((id, at) => id === first + at)).toBe(true);
  expect([listener.counts.behind, listener.counts.level]).toEqual([1, 1]);
  expect(listener.log).toContain('WARN Callbacks do not keep up, reading from the table until level again');
  expect(listener.log).toContain('INFO Level with the table again, back to notifications');
  await listeners.writer.insert(1);
  await listener.received(200_002);
}, 90_000);

test('a callback that keeps the process busy does not keep it from its socket', async () => {
  const listener = await listening({
    bufferMax: 500,
    callback: () => {
      const end = performance.now() + 1;
      while (performance.now() < end);
    },
  });
  const ids = await listeners.writer.insert(5_000);
  await listener.received(2_000);
  expect(await usage()).toBe(0);
  await listener.received(5_000);
  expect(listener.ids).toEqual(ids);
  expect(listener.counts.retrying).toBeUndefined();
});

test('buffers that overflow again and again lose nothing and repeat nothing', async () => {
  const listener = await listening({
    bufferMax: 20,
    proofEvery: 50,
    callback: () => new Promise((resolve) => setImmediate(resolve)),
  });
  for (let batch = 0; batch < 60; batch++) await listeners.writer.insert(1 + ((batch * 37) % 90));
  const committed = await listeners.writer.committed();
  await listener.received(committed.length);
  await listeners.writer.insert(1);
  await listener.received(committed.length + 1);
  expect(listener.ids).toEqual(await listeners.writer.committed());
});

test('proofs follow the signals as well as the clock', async () => {
  const listener = await listening({ proofIntervalMs: 60_000, proofEvery: 100 });
  for (let batch = 0; batch < 50; batch++) {
    await listeners.writer.insert(100);
    await listener.received((batch + 1) * 100);
  }
  expect(listener.counts.latency).toBeGreaterThan(5);
  expect(listener.listener.proofAgeMs).toBeLessThan(60_000);
});

test('a buffer that overflows while the table is read begins again, and repeats nothing', async () => {
  const missed = Promise.withResolvers<void>();
  const hold = Promise.withResolvers<void>();
  let catchingUp = false;
  const listener = await listening({
    bufferMax: 50,
    callback: () => {
      if (!catchingUp) return undefined;
      missed.resolve();
      return hold.promise;
    },
  });
  const outage = listeners.writer.killBackends();
  catchingUp = true;
  await listeners.writer.client.query('BEGIN');
  await listeners.writer.insert(200);
  await outage;
  await listeners.writer.client.query('COMMIT');
  await missed.promise;
  for (let batch = 0; batch < 10; batch++) await listeners.writer.insert(30);
  await listener.happened('behind');
  hold.resolve();
  await listener.happened('level');
  await listeners.writer.insert(10);
  await listener.received(510);
  expect(listener.ids).toEqual(await listeners.writer.committed());
});
