/** Groups that are changed while a member runs. */
import { createPool } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import type pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { deleteGroup, Group, listDeadLetters, resetGroup, retryDeadLetters, showGroup } from '../../src/index.ts';
import { Condition } from '../testListener.ts';
import { StoredGroups } from './storedGroups.ts';

let database: TestDatabase;
let pool: pg.Pool;
let stored: StoredGroups;
let running: Promise<void>;
let abort: AbortController;
let fails: boolean;
let handled: number[];
const condition = new Condition();
beforeEach(async () => {
  database = await createTestDatabase();
  pool = createPool({ connectionString: database.url, application_name: 'test member' });
  stored = await StoredGroups.connect(database.url);
  abort = new AbortController();
  fails = false;
  handled = [];
  const group = new Group(pool, { name: 'g', from: 'latest', lanes: 4, retries: 0, checkpointMs: 20 }, ({ id }) => {
    if (fails) throw new Error('it fails');
    handled.push(id);
    condition.changed();
  });
  running = group.start(abort.signal);
});
afterEach(async () => {
  abort.abort();
  await running;
  await stored.end();
  await pool.end();
  await database.drop();
});

/** Another process gives no event. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds().catch(() => false)));
}

const ownsAll = () => until(async () => (await showGroup(pool, 'g')).lanes.every(({ owner }) => owner !== null));

test('a running member handles everything again after a reset, and its lag comes to 0', async () => {
  await ownsAll();
  const ids = await stored.signals(20);
  await condition.until(() => handled.length === 20);
  await expect(deleteGroup(pool, 'g')).rejects.toMatchObject({ failure: 'in-use' });
  await resetGroup(pool, 'g', 'earliest');
  await condition.until(() => handled.length >= 40);
  expect(handled.slice(-20).sort((a, b) => a - b)).toEqual(ids);
  await until(async () => (await showGroup(pool, 'g')).group.lag_rows === 0);
});

test('a running member runs a dead letter that is given back', async () => {
  await ownsAll();
  fails = true;
  const [id] = await stored.signals(1);
  await until(async () => (await listDeadLetters(pool, 'g')).length === 1);
  fails = false;
  expect(await retryDeadLetters(pool, 'g')).toMatchObject({ retried: [id] });
  await condition.until(() => handled.includes(id!));
  await until(async () => (await showGroup(pool, 'g')).group.retries === 0);
});
