/** What the role `signals_producer` may do, and what `/readyz` says where a right is missing. */
import { rightsOf } from '@pg-signals/db';
import { asRole } from '@pg-signals/local/testing';
import type { Service } from '@pg-signals/runtime';
import pg from 'pg';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { clearKeys } from '../src/clearKeys.ts';
import { post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const ROLE = 'signals_producer';
let producer: Service;
let undo: string[] = [];
beforeAll(async () => {
  producer = await producers.start();
});
afterEach(async () => {
  for (const sql of undo) await producers.client.query(sql);
  undo = [];
});

/** Runs a statement as the database's owner, and another after the test. */
async function change(sql: string, undoing: string): Promise<void> {
  undo.push(undoing);
  await producers.client.query(sql);
}

const ready = async () => {
  const response = await fetch(`${producer.url}/readyz`);
  return { ...((await response.json()) as { detail?: string }), status: response.status };
};

/** Everything that a producer does in the database; true for each part that succeeds. */
async function works(): Promise<Record<string, boolean>> {
  const signal = { signal_name: 'a', signal_value: 1 };
  const statuses = {
    one: (await postJson(producer, signal)).status,
    several: (await postJson(producer, [signal, signal])).status,
    keyed: (await postJson(producer, { ...signal, key: crypto.randomUUID() })).status,
    lines: (await post(producer, JSON.stringify(signal), { 'Content-Type': 'application/x-ndjson' })).status,
  };
  const pool = new pg.Pool({ connectionString: asRole(producers.databaseUrl, ROLE) });
  const cleared = clearKeys(pool, { hours: 1, timeoutMs: 5_000 }).then(
    () => true,
    () => false,
  );
  const answered = Object.entries(statuses).map(([name, status]) => [name, status === 200] as const);
  return { ...Object.fromEntries(answered), cleared: await cleared.finally(() => pool.end()) };
}

test('the role has what a producer needs', async () => {
  await producers.client.query(`INSERT INTO signal_keys (key, part, fingerprint, signal_id, created_at)
    VALUES ('old', 0, '', 1, now() - interval '3 hours')`);
  expect(await works()).toEqual({ one: true, several: true, keyed: true, lines: true, cleared: true });
  expect((await producers.client.query(`SELECT FROM signal_keys WHERE key = 'old'`)).rowCount).toBe(0);
  expect((await ready()).status).toBe(200);
});

test.each(rightsOf(ROLE))('without %s something fails, and /readyz names it', async (right) => {
  // PUBLIC has some of them by default.
  await change(`REVOKE ${right} FROM ${ROLE}, PUBLIC`, `GRANT ${right} TO ${ROLE}`);
  expect(Object.values(await works())).toContain(false);
  expect(await ready()).toMatchObject({ status: 503, detail: expect.stringContaining(right) });
});

test.each([
  [`INSERT INTO signals (signal_name, signal_value, xid) VALUES ('a', 1, '3')`],
  ['UPDATE signals SET signal_value = 0'],
  ['DELETE FROM signals'],
  ['TRUNCATE signals'],
  [`UPDATE signal_keys SET signal_id = 1`],
  [`SELECT setval('signals_id_seq', 1)`],
  ['ALTER TABLE signals DISABLE TRIGGER new_signals'],
  ['CREATE TABLE public.mine ()'],
  [`SELECT pg_read_file('postgresql.conf')`],
])('the role may not %s', async (sql) => {
  const client = new pg.Client({ connectionString: asRole(producers.databaseUrl, ROLE) });
  await client.connect();
  await expect(client.query(sql)).rejects.toMatchObject({ code: '42501' });
  await client.end();
});

test.each([
  ['ALTER TABLE signals RENAME COLUMN xid TO old', 'ALTER TABLE signals RENAME COLUMN old TO xid', 'column "xid"'],
  ['ALTER TABLE signal_keys RENAME TO old', 'ALTER TABLE old RENAME TO signal_keys', 'public.signal_keys'],
  [
    'ALTER FUNCTION fn_insert_keyed_signals RENAME TO old',
    'ALTER FUNCTION old RENAME TO fn_insert_keyed_signals',
    'fn_insert_keyed_signals is missing',
  ],
  [
    'ALTER TABLE signals DISABLE TRIGGER new_signals',
    'ALTER TABLE signals ENABLE TRIGGER new_signals',
    'the trigger new_signals',
  ],
])('after %s it is not ready, and says that the schema is another', async (sql, undoing, said) => {
  await change(sql, undoing);
  expect(await ready()).toMatchObject({
    status: 503,
    detail: expect.stringMatching(new RegExp(`^Run npm run migrate: .*${said}`)),
  });
});
