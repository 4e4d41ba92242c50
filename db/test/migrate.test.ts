import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
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

test.each([
  ['DROP TABLE signal_keys', 'the table public.signal_keys is missing, although'],
  ['DROP TRIGGER new_signals ON signals', 'the trigger new_signals of public.signals is missing or disabled, although'],
])('after %s it does not say that the database is up to date', async (sql, said) => {
  await migrate(database.url);
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  await client.query(sql);
  await client.end();
  const { code, stderr } = await runMigrate({ DATABASE_URL: database.url });
  expect([code, stderr]).toEqual([1, expect.stringContaining(said)]);
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

/** The table of the Go original, with its trigger. */
const ORIGINAL = `
  CREATE TABLE signals ("timestamp" timestamptz, signal_name varchar(255), signal_value double precision);
  CREATE FUNCTION fn_new_signals() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_notify('new_signals', to_json(NEW)::text); RETURN NEW; END $$;
  CREATE TRIGGER new_signals AFTER INSERT ON signals FOR EACH ROW EXECUTE FUNCTION fn_new_signals();`;
/** As the Go original inserts. */
const INSERT = 'INSERT INTO signals ("timestamp", signal_name, signal_value) VALUES ($1, $2, $3)';

describe('the table of the Go original', () => {
  let go: pg.Client;
  beforeEach(async () => {
    go = new pg.Client({ connectionString: database.url });
    await go.connect();
  });
  afterEach(() => go.end());

  test('is taken over with its rows, which are not notified again, and the original goes on writing', async () => {
    await go.query(ORIGINAL);
    await go.query(INSERT, ['2026-04-02T16:23:18.123456Z', 'later', 2.5]);
    await go.query(INSERT, ['2026-04-02T16:23:17.123456Z', 'earlier', 1 / 3]);
    const payloads: string[] = [];
    go.on('notification', ({ payload }) => payloads.push(payload!));
    await go.query('LISTEN new_signals');
    expect(await runMigrate({ DATABASE_URL: database.url })).toMatchObject({ code: 0 });
    await go.query(INSERT, ['2026-04-02T16:23:19Z', 'new', 3]);
    expect(payloads.map((payload) => JSON.parse(payload).signal_name)).toEqual(['new']);
    const { rows } = await go.query(
      `SELECT id, to_json("timestamp" AT TIME ZONE 'UTC') AS at, signal_name, signal_value, attributes, xid < '4' AS old
       FROM signals ORDER BY id`,
    );
    expect(rows).toEqual([
      {
        id: '1',
        at: '2026-04-02T16:23:17.123456',
        signal_name: 'earlier',
        signal_value: 1 / 3,
        attributes: {},
        old: true,
      },
      { id: '2', at: '2026-04-02T16:23:18.123456', signal_name: 'later', signal_value: 2.5, attributes: {}, old: true },
      { id: '3', at: '2026-04-02T16:23:19', signal_name: 'new', signal_value: 3, attributes: {}, old: false },
    ]);
  });

  test('with other types of the same columns is taken over too, in any time zone', async () => {
    await go.query(`CREATE TABLE signals ("timestamp" timestamp, signal_name char(9), signal_value numeric);
      INSERT INTO signals VALUES ('2026-04-02 16:23:17', 'a', 1.5)`);
    await go.query(`ALTER DATABASE ${go.database} SET timezone = 'Asia/Kolkata'`);
    await migrate(database.url);
    const { rows } = await go.query(`SELECT "timestamp" = '2026-04-02T16:23:17Z' AS same, signal_name FROM signals`);
    expect(rows).toEqual([{ same: true, signal_name: 'a' }]);
  });

  test('loses no insert that runs while it is taken over', async () => {
    await go.query(ORIGINAL);
    await go.query('BEGIN');
    await go.query(INSERT, [new Date(), 'open', 1]);
    const migrating = migrate(database.url);
    const other = new pg.Client({ connectionString: database.url });
    await other.connect();
    const waits = (count: number) =>
      vi.waitFor(async () => {
        const sql = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`;
        expect((await other.query(sql)).rowCount).toBe(count);
      });
    await waits(1);
    const late = new pg.Client({ connectionString: database.url });
    await late.connect();
    const inserting = late.query(INSERT, [new Date(), 'waited', 2]);
    await waits(2);
    await go.query('COMMIT');
    await Promise.all([migrating, inserting]);
    const { rows } = await other.query('SELECT signal_name FROM signals ORDER BY id');
    expect(rows.map(({ signal_name }) => signal_name)).toEqual(['open', 'waited']);
    await Promise.all([other.end(), late.end()]);
  });

  test.each([
    ['ALTER TABLE signals ADD id serial, ADD "no te" text', 'more columns', [{ id: 1, 'no te': null }]],
    [
      `INSERT INTO signals VALUES (now(), 'a', 'NaN'), (now(), NULL, 1), ('infinity', 'a', 1), ('0044-03-15 BC', 'a', 1)`,
      '4 rows',
      [{}],
    ],
  ])('after %s it stays as it is, and what migrate says to do works', async (sql, said, attributes) => {
    await go.query(ORIGINAL);
    await go.query(INSERT, [new Date(), 'kept', 1]);
    await go.query(sql);
    const { rows: before } = await go.query('SELECT * FROM signals');
    const { code, stderr } = await runMigrate({ DATABASE_URL: database.url });
    expect([code, stderr]).toEqual([1, expect.stringContaining(said)]);
    expect((await go.query('SELECT * FROM signals')).rows).toEqual(before);
    for (const line of stderr.trim().split('\n').slice(1)) {
      if (line === 'npm run migrate') await migrate(database.url);
      else await go.query(line);
    }
    await migrate(database.url);
    const { rows } = await go.query('SELECT signal_name, attributes FROM signals');
    expect(rows).toEqual(attributes.map((expected) => ({ signal_name: 'kept', attributes: expected })));
  });
});
