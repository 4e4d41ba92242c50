/** A member that is stopped: what it has begun is finished, and after that nothing of it runs. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool, type Signal } from '@pg-signals/db';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { expect, test } from 'vitest';
import { Group, type GroupOptions, type Handler } from '../../src/index.ts';
import { upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

/** A member whose pool is still there when it has ended. */
function start(options: Partial<GroupOptions>, handler: Handler<Signal>, url = groups.url) {
  const pool = createPool({
    connectionString: url,
    application_name: 'member',
    max: 5,
    connectionTimeoutMillis: 1_000,
  });
  const group = new Group(
    pool,
    { name: 'workers', leaseMs: 1_000, checkpointMs: 100, proofTimeoutMs: 1_000, ...options },
    handler,
  );
  const stop = new AbortController();
  const done = group.start(stop.signal);
  const ended = async () => {
    stop.abort();
    stop.abort();
    await done;
    // A connection that was asked for may still come, and goes back by itself.
    await expect.poll(() => pool.totalCount - pool.idleCount).toBe(0);
    expect(pool.waitingCount).toBe(0);
  };
  return { group, pool, stop, done, ended, lanes: (count: number) => expect.poll(() => group.laneCount).toBe(count) };
}

test('it finishes what runs, hands over what waits behind a key, and begins nothing more', async () => {
  const runs: number[] = [];
  const finish = Promise.withResolvers<void>();
  const member = start({ order: 'signal_name', concurrency: 4 }, async ({ id }) => {
    runs.push(id);
    await finish.promise;
  });
  await member.lanes(64);
  await groups.insert(2_000);
  await expect.poll(() => member.group.inFlight).toBeGreaterThan(900);
  const ended = member.ended();
  await groups.insert(10);
  await sleep(1_500); // longer than the lease
  expect(runs).toEqual([1]);
  finish.resolve();
  await ended;
  expect((await member.pool.query('SELECT 1')).rowCount).toBe(1);
  await member.pool.end();
  expect(runs).toEqual([1]);
  const group = groups.make({ order: 'signal_name' });
  group.join();
  await group.until(() => group.runs.length === 2_009);
  expect(group.runs.map(({ id }) => id)).toEqual(upTo(2_009, 2));
});

test('a handler that never settles holds it up to its time limit; the row is run again by the next member', async () => {
  const member = start({ timeoutMs: 500 }, () => new Promise(() => {}));
  await member.lanes(64);
  await groups.insert(1);
  await expect.poll(() => member.group.inFlight).toBe(1);
  const stoppedAt = performance.now();
  await member.ended();
  expect(performance.now() - stoppedAt).toBeLessThan(1_500);
  await member.pool.end();
  const group = groups.make();
  group.join();
  await group.until(() => group.runs.length === 1);
  expect(group.runs[0]).toMatchObject({ id: 1, attempt: 2 });
});

test('stopped before it begins, and while it joins, it leaves no member', async () => {
  const before = start({}, () => {});
  await before.ended();
  await before.pool.end();
  for (let each = 0; each < 5; each++) {
    const joining = start({}, () => {});
    await sleep(each * 10);
    await joining.ended();
    await joining.pool.end();
  }
  expect((await groups.client.query('SELECT FROM signal_group_members')).rowCount).toBe(0);
});

test('while its database is away it ends, with rows that could not be kept too, and nothing is lost', async () => {
  const proxy = new FaultyProxy(Number(new URL(groups.url).port));
  await proxy.start();
  const url = new URL(groups.url);
  url.host = `127.0.0.1:${proxy.port}`;
  const fail = Promise.withResolvers<void>();
  const member = start({ concurrency: 4 }, () => fail.promise, url.href);
  await member.lanes(64);
  await groups.insert(4);
  await expect.poll(() => member.group.inFlight).toBe(4);
  proxy.close();
  fail.reject(new Error('no database'));
  const stoppedAt = performance.now();
  await member.ended();
  expect(performance.now() - stoppedAt).toBeLessThan(8_000);
  await member.pool.end();
  const group = groups.make();
  group.join();
  await group.until(() => new Set(group.ids).size === 4);
}, 30_000);
