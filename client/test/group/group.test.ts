/** Consumer groups against a real server: sharing, handover, retries, order, batches. */
import { expect, test } from 'vitest';
import { upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

test('each signal is handled by one member, and a new member takes its share', async () => {
  const group = groups.make();
  const first = group.join();
  await first.lanes(64);
  await groups.insert(100);
  await group.until(() => group.runs.length === 100);
  const second = group.join();
  await Promise.all([first.lanes(32), second.lanes(32)]);
  await groups.insert(100);
  await group.until(() => group.runs.length === 200);
  expect(group.ids).toEqual(upTo(200));
  expect(new Set(group.runs.slice(100).map(({ member }) => member))).toEqual(new Set([1, 2]));
});

test('a clean stop hands over at once and repeats nothing; a group that was away goes on where it stopped', async () => {
  const group = groups.make();
  const first = group.join({ leaseMs: 60_000 });
  await first.lanes(64);
  const second = group.join({ leaseMs: 60_000 });
  await second.lanes(32);
  await groups.insert(500);
  await first.stop();
  await second.lanes(64);
  await groups.insert(500);
  await group.until(() => group.runs.length === 1000);
  await second.stop();
  await groups.insert(500);
  const third = group.join();
  await group.until(() => group.runs.length === 1500);
  await third.stop();
  expect(group.ids).toEqual(upTo(1500));
});

test('a new group begins with what comes, or with the first row', async () => {
  await groups.insert(10);
  const late = groups.make();
  await late.join({ name: 'late' }).lanes(64);
  const early = groups.make();
  early.join({ name: 'early', from: 'earliest' });
  await groups.insert(10);
  await early.until(() => early.runs.length === 20);
  await late.until(() => late.runs.length === 10);
  expect(late.ids).toEqual(upTo(10, 11));
});

test('a signal that fails is run again, others meanwhile, and is a dead letter in the end', async () => {
  const group = groups.make();
  await group
    .join({ retries: 1 }, ({ id }) => {
      if (id === 3) throw new Error('no threes');
    })
    .lanes(64);
  await groups.insert(10);
  await group.until(() => group.runs.length === 11);
  await group.until(() => group.log.includes('given up'));
  const { rows } = await groups.client.query(
    'SELECT group_name, signal_id, signal, attempts, first_error, last_error FROM dead_letters',
  );
  expect(rows).toEqual([
    {
      group_name: 'workers',
      signal_id: '3',
      signal: expect.objectContaining({ id: 3 }),
      attempts: 2,
      first_error: 'no threes',
      last_error: 'no threes',
    },
  ]);
  expect((await groups.client.query('SELECT FROM signal_retries')).rowCount).toBe(0);
});

test('signals of a key come one after another, also behind one that fails', async () => {
  const group = groups.make();
  let failures = 0;
  const order: number[] = [];
  await group
    .join({ order: 'signal_name', concurrency: 8 }, async ({ id, signal_name }) => {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
      if (id === 3 && failures++ < 1) throw new Error('once');
      if (signal_name === 'a') order.push(id);
    })
    .lanes(64);
  await groups.client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT (ARRAY['a','b'])[1 + n % 2], n FROM generate_series(0, 19) AS n`,
  );
  await group.until(() => order.length === 10);
  expect(order).toEqual([1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
});

test('a batch and its checkpoint are one transaction', async () => {
  await groups.client.query('CREATE TABLE total (sum bigint, rows bigint); INSERT INTO total VALUES (0, 0)');
  const group = groups.make();
  let failures = 0;
  const member = group.join(
    {},
    {
      async handleBatch(signals, tx) {
        const sum = signals.reduce((total, { signal_value }) => total + signal_value, 0);
        await tx.query('UPDATE total SET sum = sum + $1, rows = rows + $2', [sum, signals.length]);
        if (failures++ === 1) throw new Error('once');
      },
    },
  );
  await member.lanes(64);
  await groups.insert(5_000);
  await groups.insert(5_000);
  const total = async () => (await groups.client.query('SELECT rows FROM total')).rows[0].rows;
  await expect.poll(total, { timeout: 10_000 }).toBe('10000');
  await member.stop();
  expect((await groups.client.query('SELECT sum::int FROM total')).rows).toEqual([{ sum: (2 * (5_000 * 5_001)) / 2 }]);
});
