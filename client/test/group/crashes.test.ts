/** Processes that end at any moment: attempts are counted, keys keep their order, batches are written once. */
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { MemberProcess } from '../memberProcess.ts';
import { upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

const deadLetters = async () =>
  (await groups.client.query('SELECT signal_id::int AS id, signal, attempts FROM dead_letters ORDER BY id')).rows;

test.each([
  { concurrency: 1, retries: 5 },
  { concurrency: 10, retries: 5 },
  { concurrency: 10, retries: 1 },
  { concurrency: 10, retries: 2, order: 'signal_name' },
])(
  'a row that ends its process each time is buried, and those around it are handled: %j',
  async (options) => {
    const done = new Set<number>();
    const [poison, rows] = [15, 30];
    let member = new MemberProcess(groups.url, { poison, handlerMs: 30, options });
    await member.lanes(64);
    await groups.insert(rows);
    let processes = 0;
    for (;;) {
      processes++;
      const buried = member
        .until(() => member.log.includes('given up'), 20_000)
        .then(
          () => true,
          () => true,
        );
      const isBuried = await Promise.race([buried, member.ended.then(() => false)]);
      for (const { id } of member.done) done.add(id);
      if (isBuried) break;
      member = new MemberProcess(groups.url, { poison, handlerMs: 30, options });
    }
    await member.until(() => new Set([...done, ...member.done.map(({ id }) => id)]).size === rows - 1);
    const attempts = options.retries + 1;
    expect(await deadLetters()).toEqual([{ id: poison, signal: expect.objectContaining({ id: poison }), attempts }]);
    expect(processes).toBe(attempts + 1);
  },
  90_000,
);

test('rows of a key come one after another, while members fail, join, leave, freeze and are killed', async () => {
  const options = { order: 'attributes.room', concurrency: 10, from: 'earliest' as const };
  const start = () => new MemberProcess(groups.url, { options, handlerMs: 5, failing: 0.03 });
  const [rows, rooms] = [4_000, 100];
  const all = [start(), start()];
  const alive = [...all];
  await alive[0]!.lanes(32);
  for (let each = 0; each < 8; each++) {
    await groups.client.query(
      `INSERT INTO signals (signal_name, signal_value, attributes)
       SELECT 'test', n, jsonb_build_object('room', n % $2) FROM generate_series(1, $1::int) AS n`,
      [rows / 8, rooms],
    );
    await sleep(200 + Math.random() * 500);
    const [member] = alive.splice(Math.floor(Math.random() * alive.length), 1);
    member!.kill((['SIGKILL', 'SIGTERM', 'SIGSTOP'] as const)[each % 3]!);
    if (each % 3 === 2) setTimeout(() => member!.kill('SIGCONT'), 2_500);
    const next = start();
    all.push(next);
    alive.push(next);
  }
  const finished = () => new Set(all.flatMap(({ done }) => done.map(({ id }) => id)));
  await expect.poll(() => finished().size, { timeout: 60_000 }).toBe(rows);
  await expect
    .poll(async () => (await groups.client.query('SELECT FROM signal_retries')).rowCount, { timeout: 20_000 })
    .toBe(0);
  await Promise.all(alive.map((member) => member.leave()));
  const firstDone = new Map<number, number>();
  for (const { id, at } of all.flatMap(({ done }) => done).sort((a, b) => a.at - b.at)) {
    if (!firstDone.has(id)) firstDone.set(id, at);
  }
  const lastOf = new Map<number, number>();
  const early: unknown[] = [];
  for (const { id, at } of all.flatMap(({ runs }) => runs).sort((a, b) => a.at - b.at)) {
    lastOf.set(id % rooms, id);
    if (id > rooms && !(firstDone.get(id - rooms)! <= at)) early.push({ id, at, before: firstDone.get(id - rooms) });
  }
  expect(early).toEqual([]);
  expect([...lastOf.values()].sort((a, b) => a - b)).toEqual(upTo(rooms, rows - rooms + 1));
  expect(await deadLetters()).toEqual([]);
}, 120_000);

test('of a member that is killed after a row has failed, nothing comes again after that row', async () => {
  const options = { order: 'signal_name', checkpointMs: 60_000 };
  const killed = new MemberProcess(groups.url, { options, failAt: 3 });
  await killed.lanes(64);
  await groups.insert(3);
  await expect.poll(async () => (await groups.client.query('SELECT FROM signal_retries')).rowCount).toBe(1);
  killed.kill('SIGKILL');
  await killed.ended;
  const group = groups.make({ order: 'signal_name' });
  const member = group.join();
  await member.lanes(64);
  await groups.insert(1);
  await group.until(() => group.ids.includes(4));
  expect(killed.ids).toEqual([1, 2, 3]);
  expect(group.runs.map(({ id }) => id)).toEqual([3, 4]);
});

test('a slow row holds up nothing, and it alone comes again after a kill', async () => {
  const killed = new MemberProcess(groups.url, { options: { concurrency: 2 }, endless: 1 });
  await killed.lanes(64);
  await groups.insert(500);
  await killed.until(() => killed.runs.length === 500);
  const stored = async () => {
    const { rows } = await groups.client.query('SELECT cursors FROM signal_group_members');
    const [{ pending, handled }] = rows[0].cursors;
    return { pending: pending?.map(([, id]: [number, number]) => id), handled: handled?.length ?? 0 };
  };
  await expect.poll(stored, { timeout: 5_000 }).toEqual({ pending: [1], handled: 0 });
  killed.kill('SIGKILL');
  await killed.ended;
  const group = groups.make();
  await group.join().lanes(64);
  await groups.insert(1);
  await group.until(() => group.runs.length === 2);
  expect(group.ids).toEqual([1, 501]);
});

test('batches are written once by members that are killed at any moment', async () => {
  await groups.client.query('CREATE TABLE handled (id bigint)');
  // Few rows beyond a checkpoint: of a killed member, each runs in a transaction of its own.
  const options = { from: 'earliest' as const, checkpointRows: 100 };
  const start = () => new MemberProcess(groups.url, { options, batch: true });
  const rows = 40_000;
  await groups.insert(rows / 2);
  const alive = [start(), start()];
  for (let each = 0; each < 8; each++) {
    await groups.insert(rows / 16);
    await sleep(300 + Math.random() * 500);
    const killed = alive.shift()!;
    killed.kill('SIGKILL');
    alive.push(start());
  }
  const handled = async () => (await groups.client.query('SELECT count(*)::int, sum(id)::float8 FROM handled')).rows[0];
  await expect.poll(async () => (await handled()).count, { timeout: 60_000 }).toBeGreaterThanOrEqual(rows);
  await Promise.all(alive.map((member) => member.leave()));
  expect(await handled()).toEqual({ count: rows, sum: (rows * (rows + 1)) / 2 });
  expect(await deadLetters()).toEqual([]);
}, 120_000);
