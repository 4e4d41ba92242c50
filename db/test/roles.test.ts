/** The roles that `npm run migrate` makes, on a server of the file's own: roles belong to a whole cluster. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { migrate } from '../src/migrate.ts';
import { rightsOf } from '../src/rights.ts';
import { createRoles } from '../src/roles.ts';
import { runMigrate } from './runMigrate.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-roles-'));
let server: EmbeddedPostgres;
/** A database of each test's own. */
let url = '';
let admin: pg.Client;

let root: pg.Client;

beforeAll(async () => {
  // The log has every statement, as on servers with an audit.
  const settings = { fsync: 'off', log_statement: 'all', logging_collector: 'on' };
  server = await startEmbeddedPostgres({ directory, settings });
  root = await connect(server.url);
});
beforeEach(async () => {
  const name = `roles_${crypto.randomUUID().replaceAll('-', '')}`;
  await root.query(`CREATE DATABASE ${name}`);
  url = urlOf({ pathname: `/${name}` });
  admin = await connect(url);
  return async () => {
    await admin.end();
    await root.query(`DROP DATABASE ${name}`);
    await root.query('DROP ROLE IF EXISTS signals_producer, signals_consumer, owner');
  };
});
afterAll(async () => {
  await root.end();
  await server.stop();
  rmSync(directory, { recursive: true });
});

async function connect(to: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: to });
  await client.connect();
  return client;
}

function urlOf(changes: { pathname?: string; username?: string; password?: string }): string {
  return Object.assign(new URL(server.url), { pathname: new URL(url || server.url).pathname, ...changes }).href;
}

const logsIn = (username: string, password: string) =>
  connect(urlOf({ username, password })).then(
    (client) => client.end().then(() => true),
    () => false,
  );

test('passwords make logins, and a second run changes them', async () => {
  for (const password of ['it is "secret" 1', "it's \\secret\\ 2"]) {
    const { code, stdout, stderr } = await runMigrate({
      DATABASE_URL: url,
      SIGNALS_PRODUCER_PASSWORD: password,
      SIGNALS_CONSUMER_PASSWORD: `${password}!`,
    });
    expect({ code, stderr, stdout }).toEqual({
      code: 0,
      stderr: '',
      stdout: expect.stringContaining('signals_producer and signals_consumer have what'),
    });
    expect(await logsIn('signals_producer', password)).toBe(true);
    expect(await logsIn('signals_consumer', `${password}!`)).toBe(true);
    expect(await logsIn('signals_producer', `${password}!`)).toBe(false);
  }
  const { rows } = await root.query('SELECT pg_read_file(pg_current_logfile()) AS log');
  expect(rows[0].log).toContain('ALTER ROLE signals_producer LOGIN PASSWORD');
  expect(rows[0].log).not.toContain('secret');
});

test('without passwords the roles are there to be granted, and a login keeps its own', async () => {
  await runMigrate({ DATABASE_URL: url, SIGNALS_CONSUMER_PASSWORD: 'kept' });
  expect(await runMigrate({ DATABASE_URL: url, SIGNALS_CONSUMER_PASSWORD: '' })).toMatchObject({ code: 0 });
  const { rows } = await admin.query(
    `SELECT rolname, rolcanlogin, rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication
     FROM pg_roles WHERE rolname LIKE 'signals\\_%' ORDER BY rolname`,
  );
  const weak = {
    rolsuper: false,
    rolcreatedb: false,
    rolcreaterole: false,
    rolbypassrls: false,
    rolreplication: false,
  };
  expect(rows).toEqual([
    { rolname: 'signals_consumer', rolcanlogin: true, ...weak },
    { rolname: 'signals_producer', rolcanlogin: false, ...weak },
  ]);
  expect(await logsIn('signals_consumer', 'kept')).toBe(true);
});

test('a user who may not create roles migrates, and gets the SQL for one who may', async () => {
  await admin.query(`CREATE ROLE owner LOGIN PASSWORD 'owner'; ALTER DATABASE ${admin.database} OWNER TO owner`);
  const environment = { DATABASE_URL: urlOf({ username: 'owner', password: 'owner' }) };
  const first = await runMigrate(environment);
  expect(first).toMatchObject({ code: 0, stderr: '' });
  const [, sql] = first.stdout.split(/^-- This user may not.*\n/m);
  expect(sql!.split('\n')).toEqual(
    expect.arrayContaining([
      'CREATE ROLE signals_producer;',
      `GRANT ${rightsOf('signals_consumer')[1]} TO signals_consumer;`,
    ]),
  );
  await admin.query(sql!);
  expect((await runMigrate(environment)).stdout).toContain('have what the services need');
});

test('the owner grants the rights of roles that were made for him', async () => {
  await admin.query(`CREATE ROLE owner LOGIN PASSWORD 'owner'; ALTER DATABASE ${admin.database} OWNER TO owner;
    CREATE ROLE signals_producer; CREATE ROLE signals_consumer; REVOKE CONNECT ON DATABASE ${admin.database} FROM PUBLIC`);
  const { stdout } = await runMigrate({ DATABASE_URL: urlOf({ username: 'owner', password: 'owner' }) });
  expect(stdout).toContain('have what the services need');
  await admin.query(`ALTER ROLE signals_consumer LOGIN PASSWORD 'x'`);
  expect(await logsIn('signals_consumer', 'x')).toBe(true);
});

test('a password that can’t be set is said without showing it, with code 1, unless it is the one already', async () => {
  await admin.query(`CREATE ROLE owner LOGIN PASSWORD 'owner'; ALTER DATABASE ${admin.database} OWNER TO owner`);
  const DATABASE_URL = urlOf({ username: 'owner', password: 'owner' });
  const environment = { DATABASE_URL, SIGNALS_PRODUCER_PASSWORD: 's3cr3t' };
  const { code, stdout } = await runMigrate(environment);
  expect(code).toBe(1);
  expect(stdout).toContain(`CREATE ROLE signals_producer LOGIN PASSWORD '…';\n`);
  expect(stdout).not.toMatch(/s3cr3t|SCRAM/);
  const [, sql] = stdout.split(/^-- This user may not.*\n/m);
  await admin.query(sql!.replace('…', 'another'));
  expect(await runMigrate(environment)).toMatchObject({
    code: 1,
    stdout: expect.stringContaining(`ALTER ROLE signals_producer LOGIN PASSWORD '…';\n`),
  });
  await admin.query(`ALTER ROLE signals_producer PASSWORD 's3cr3t'`);
  expect(await runMigrate(environment)).toMatchObject({ code: 0, stdout: expect.stringContaining('have what') });
});

test('a password that is not ASCII is refused by its name', async () => {
  expect(await runMigrate({ DATABASE_URL: url, SIGNALS_PRODUCER_PASSWORD: 'grün' })).toEqual({
    code: 1,
    stdout: '',
    stderr: 'SIGNALS_PRODUCER_PASSWORD: expected a password in ASCII\n',
  });
});

test('many that make the roles at once, from two databases of the server, all succeed', async () => {
  const other = `${admin.database}_other`;
  await root.query(`CREATE DATABASE ${other}`);
  const urls = [url, urlOf({ pathname: `/${other}` })];
  await Promise.all(urls.map((each) => migrate(each)));
  const passwords = { signals_producer: 'p', signals_consumer: 'c' };
  const left = await Promise.all(Array.from({ length: 16 }, (_, n) => createRoles(urls[n % 2]!, passwords)));
  expect(left.flat()).toEqual([]);
  expect(await logsIn('signals_producer', 'p')).toBe(true);
  await root.query(`DROP DATABASE ${other}`);
});

test('a stranger hears what is notified and may do nothing else, and nothing at all once PUBLIC may not connect', async () => {
  await runMigrate({ DATABASE_URL: url, SIGNALS_PRODUCER_PASSWORD: 'p', SIGNALS_CONSUMER_PASSWORD: 'c' });
  await admin.query(`CREATE ROLE owner LOGIN PASSWORD 'x'`); // it owns nothing here
  const stranger = await connect(urlOf({ username: 'owner', password: 'x' }));
  await stranger.query('LISTEN new_signals');
  const heard = once(stranger, 'notification');
  await admin.query(`INSERT INTO signals (signal_name, signal_value) VALUES ('secret', 1)`);
  expect((await heard)[0].payload).toContain('secret');
  for (const sql of [
    'SELECT FROM signals',
    'SELECT FROM signal_keys',
    `INSERT INTO signals (signal_name, signal_value) VALUES ('a', 1)`,
    `SELECT fn_insert_keyed_signals('{now}', '{a}', '{1}', '{"{}"}', '{}', '{}', '{}')`,
    `SELECT setval('signals_id_seq', 1)`,
    'TRUNCATE signals',
    'CREATE TABLE public.signals_too ()',
  ]) {
    await expect(stranger.query(sql), sql).rejects.toMatchObject({ code: '42501' });
  }
  await stranger.end();
  await admin.query(`REVOKE CONNECT, TEMPORARY ON DATABASE ${admin.database} FROM PUBLIC`);
  const allowed = [
    await logsIn('owner', 'x'),
    await logsIn('signals_producer', 'p'),
    await logsIn('signals_consumer', 'c'),
  ];
  expect(allowed).toEqual([false, true, true]);
});
