import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { migrate, requireServer } from '../src/migrate.ts';
import { runMigrate } from './runMigrate.ts';

let database: TestDatabase;
beforeEach(async () => {
  database = await createTestDatabase({ migrated: false });
});
afterEach(() => database.drop());

test('it applies every migration once and says which', async () => {
  const first = await runMigrate({ DATABASE_URL: database.url });
  expect(first).toMatchObject({ code: 0, stdout: expect.stringContaining('applied 0001_signals') });
  const second = await runMigrate({ DATABASE_URL: database.url });
  expect(second).toMatchObject({ code: 0, stdout: expect.stringContaining('nothing to apply') });
});

test('when two run at once, one applies and the other waits', async () => {
  const both = await Promise.all([migrate(database.url), migrate(database.url)]);
  expect(both.flat().filter((name) => name === '0001_signals')).toHaveLength(1);
});

test('down drops the table and its trigger', async () => {
  const applied = await migrate(database.url);
  await migrate(database.url, { direction: 'down', count: applied.length });
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  const { rows } = await client.query(
    `SELECT to_regclass('signals') AS "table", to_regproc('fn_new_signals') AS function`,
  );
  await client.end();
  expect(rows).toEqual([{ table: null, function: null }]);
});

test('a server older than PostgreSQL 13 is rejected with its version', () => {
  expect(() => requireServer(120_022, '12.22')).toThrow(
    'PostgreSQL 12.22 is too old: pg-signals needs PostgreSQL 13 or newer',
  );
  expect(() => requireServer(130_000, '13.0')).not.toThrow();
});

test('a missing or malformed URL is named, without its password', async () => {
  expect(await runMigrate({})).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^DATABASE_URL: expected postgres:/),
  });
  const wrong = await runMigrate({ DATABASE_URL: 'mysql://me:secret@host/db' });
  expect(wrong).toMatchObject({ code: 1, stderr: expect.stringMatching(/^DATABASE_URL: expected postgres:/) });
  expect(wrong.stderr).not.toContain('secret');
});

test('an unreachable database is reported in one line', async () => {
  const { code, stderr } = await runMigrate({ DATABASE_URL: 'postgres://me:secret@127.0.0.1:1/none' });
  expect({ code, stderr }).toEqual({
    code: 1,
    stderr: 'Migrating 127.0.0.1:1/none failed: connect ECONNREFUSED 127.0.0.1:1\n',
  });
});
