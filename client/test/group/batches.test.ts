/** `handleBatch`: what it writes and the checkpoint are one, whatever the handler does and whatever fails. */
import type { PoolClient } from 'pg';
import { beforeEach, expect, test } from 'vitest';
import type { Signal } from '../../src/index.ts';
import { useGroups } from '../testGroup.ts';

const groups = useGroups();

beforeEach(async () => {
  await groups.client.query('CREATE TABLE handled (id bigint, place bigint GENERATED ALWAYS AS IDENTITY)');
});

const write = (signals: readonly Signal[], tx: PoolClient) =>
  tx.query('INSERT INTO handled SELECT unnest($1::bigint[])', [signals.map(({ id }) => id)]);

const handled = async () =>
  (await groups.client.query<{ id: number }>('SELECT id::int FROM handled ORDER BY id')).rows.map(({ id }) => id);
const deadLetters = async () =>
  (
    await groups.client.query(
      'SELECT signal_id::int AS id, attempts, last_error AS error FROM dead_letters ORDER BY id',
    )
  ).rows;

test.each([
  ['an error of a query is swallowed', 'SELECT 1 / 0', /went on after an error of one of its queries/],
  ['the transaction is rolled back', 'ROLLBACK', /ended its transaction/],
  ['the transaction is committed', 'COMMIT', /ended its transaction/],
  ['another transaction is begun', 'COMMIT; BEGIN', /ended its transaction/],
])('it has failed where %s, and the rows around are handled once', async (_, sql, error) => {
  const group = groups.make({ retries: 0 });
  const member = group.join(
    {},
    {
      async handleBatch(signals, tx) {
        if (signals.some(({ id }) => id === 5)) await tx.query(sql).catch(() => {});
        else await write(signals, tx);
      },
    },
  );
  await member.lanes(64);
  await groups.insert(8);
  await expect.poll(deadLetters).toEqual([{ id: 5, attempts: 1, error: expect.stringMatching(error) }]);
  await expect.poll(handled).toEqual([1, 2, 3, 4, 6, 7, 8]);
});

test('one that takes too long has failed, ends as a dead letter and writes nothing', async () => {
  const group = groups.make({ retries: 1, timeoutMs: 300 });
  const member = group.join(
    {},
    {
      async handleBatch(signals, tx) {
        await write(signals, tx);
        if (signals.some(({ id }) => id === 3)) await new Promise(() => {});
      },
    },
  );
  await member.lanes(64);
  await groups.insert(4);
  const error = 'the handler did not finish within 300 ms';
  await expect.poll(deadLetters, { timeout: 10_000 }).toEqual([{ id: 3, attempts: 2, error }]);
  expect(await handled()).toEqual([1, 2, 4]);
  expect(group.lines('Lost its lanes')).toBe(0);
});

test('a poison row in a batch of 1,000 is buried alone; with an order, the rows of its key wait for it', async () => {
  const group = groups.make({ retries: 1, order: 'attributes.room' });
  const member = group.join(
    {},
    {
      async handleBatch(signals, tx) {
        await write(signals, tx);
        if (signals.some(({ id }) => id === 500)) throw new Error('poison');
      },
    },
  );
  await member.lanes(64);
  await groups.client.query(
    `INSERT INTO signals (signal_name, signal_value, attributes)
     SELECT 'test', n, jsonb_build_object('room', n % 10) FROM generate_series(1, 1000) AS n`,
  );
  await expect.poll(async () => (await handled()).length, { timeout: 15_000 }).toBe(999);
  expect(await deadLetters()).toEqual([{ id: 500, attempts: 2, error: 'poison' }]);
  const { rows } = await groups.client.query<{ ids: number[] }>(
    'SELECT array_agg(id::int ORDER BY place) AS ids FROM handled GROUP BY id % 10',
  );
  for (const { ids } of rows) expect(ids).toEqual(ids.toSorted((a, b) => a - b));
});
