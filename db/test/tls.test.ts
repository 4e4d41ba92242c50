/** TLS to a server whose certificate comes from a private CA, as the services set it up from the environment. */
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, copyFileSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { createPool } from '../src/pool.ts';
import { queryWithin } from '../src/query.ts';
import { databaseSettings } from '../src/settings.ts';
import { runMigrate } from './runMigrate.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-tls-'));
const file = (name: string) => path.join(directory, name);
afterAll(() => rmSync(directory, { recursive: true }));

const hasOpenssl = spawnSync('openssl', ['version']).status === 0;
if (!hasOpenssl) process.stderr.write('skipped: the tests of TLS, since openssl is not installed\n');

const openssl = (command: string) => execFileSync('openssl', command.split(' '), { cwd: directory, stdio: 'pipe' });

function authority(name: string): void {
  openssl(
    `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=${name} -keyout ${name}.key -out ${name}.crt`,
  );
}

/** A certificate for `subject`, which `ca` signs. */
function certificate(ca: string, name: string, subject: string, hosts?: string): void {
  openssl(
    `req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=${subject} -keyout ${name}.key -out ${name}.csr`,
  );
  writeFileSync(file(`${name}.ext`), hosts ? `subjectAltName=${hosts}\n` : '');
  openssl(
    `x509 -req -days 2 -in ${name}.csr -CA ${ca}.crt -CAkey ${ca}.key -CAcreateserial -extfile ${name}.ext -out ${name}.crt`,
  );
}

describe.skipIf(!hasOpenssl)('with a private CA', () => {
  let server: EmbeddedPostgres;
  beforeAll(async () => {
    authority('ca');
    authority('stranger');
    certificate('ca', 'server', 'db', 'DNS:localhost');
    certificate('ca', 'client', 'signals_producer');
    server = await startEmbeddedPostgres({ directory: file('postgres'), settings: { fsync: 'off' } });
    const data = file('postgres/data');
    const { uid, gid } = statSync(data);
    for (const name of ['server.crt', 'server.key', 'ca.crt']) {
      copyFileSync(file(name), path.join(data, name));
      chownSync(path.join(data, name), uid, gid);
    }
    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    await client.query('ALTER SYSTEM SET ssl = on');
    await client.query(`ALTER SYSTEM SET ssl_ca_file = 'ca.crt'`);
    await client.query('CREATE ROLE signals_producer LOGIN');
    // Nothing without TLS, and for one user a certificate in his name in place of a password.
    const hba = 'hostssl all signals_producer all cert\nhostssl all all all scram-sha-256\n';
    writeFileSync(path.join(data, 'pg_hba.conf'), hba);
    await client.query('SELECT pg_reload_conf()');
    await client.end();
    // The server reads both when it gets to it.
    await vi.waitFor(async () => expect(await session({ PGSSLMODE: 'no-verify' })).toMatchObject({ ssl: true }));
  });
  afterAll(() => server.stop());

  const urlOf = (changes: Partial<URL> = {}) =>
    Object.assign(new URL(server.url), { hostname: 'localhost', search: '', ...changes }).href;

  /** The pool of a service with these variables. */
  function poolOf(environment: Record<string, string>): pg.Pool {
    const { DATABASE_URL } = databaseSettings({}).parse({ DATABASE_URL: urlOf(), ...environment });
    return createPool({ connectionString: DATABASE_URL, application_name: 'tls' });
  }

  /** What the server says of a session with these variables, or why there is none. */
  async function session(environment: Record<string, string>) {
    const pool = poolOf(environment);
    const sql = 'SELECT ssl, current_user AS "user" FROM pg_stat_ssl WHERE pid = pg_backend_pid()';
    return pool
      .query<{ ssl: boolean; user: string }>(sql)
      .then(
        ({ rows }) => rows[0],
        (error: Error) => error.message,
      )
      .finally(() => pool.end());
  }

  const CA = { PGSSLROOTCERT: file('ca.crt') };
  const ENCRYPTED = { ssl: true, user: 'postgres' };

  test.each(['require', 'verify-ca', 'verify-full'])(
    '%s takes a server whose CA and name are right, and no other',
    async (PGSSLMODE) => {
      const warned: string[] = [];
      const onWarning = ({ message }: Error) => warned.push(message);
      process.on('warning', onWarning);
      expect(await session({ PGSSLMODE, ...CA })).toEqual(ENCRYPTED);
      expect(await session({ PGSSLMODE })).toContain('self-signed certificate');
      expect(await session({ PGSSLMODE, PGSSLROOTCERT: file('stranger.crt') })).toContain('self-signed certificate');
      expect(await session({ PGSSLMODE, ...CA, DATABASE_URL: urlOf({ hostname: '127.0.0.1' }) })).toContain('altnames');
      process.off('warning', onWarning);
      expect(warned).toEqual([]);
    },
  );

  test('a CA alone asks for TLS, disable and nothing at all do not, and no-verify takes any server', async () => {
    expect(await session(CA)).toEqual(ENCRYPTED);
    expect(await session({ ...CA, PGSSLMODE: 'disable' })).toContain('no encryption');
    expect(await session({})).toContain('no encryption');
    expect(await session({ PGSSLMODE: 'no-verify' })).toEqual(ENCRYPTED);
  });

  test('the URL wins over the environment', async () => {
    const DATABASE_URL = `${urlOf()}?sslmode=require&sslrootcert=${file('ca.crt')}`;
    expect(await session({ DATABASE_URL, PGSSLMODE: 'disable', PGSSLROOTCERT: file('stranger.crt') })).toEqual(
      ENCRYPTED,
    );
    expect(await session({ DATABASE_URL: `${urlOf()}?sslmode=disable`, PGSSLMODE: 'verify-full', ...CA })).toContain(
      'no encryption',
    );
  });

  test('as with libpq, where the URL asks for that', async () => {
    const as127 = urlOf({ hostname: '127.0.0.1' });
    const compatible = (mode: string) => `${as127}?uselibpqcompat=true&sslmode=${mode}`;
    expect(await session({ DATABASE_URL: compatible('require') })).toEqual(ENCRYPTED);
    expect(await session({ DATABASE_URL: compatible('verify-ca'), ...CA })).toEqual(ENCRYPTED);
    expect(await session({ DATABASE_URL: compatible('verify-full'), ...CA })).toContain('altnames');
  });

  test('a client certificate is a login', async () => {
    const DATABASE_URL = urlOf({ username: 'signals_producer', password: '' });
    const certificates = {
      PGSSLMODE: 'verify-full',
      ...CA,
      PGSSLCERT: file('client.crt'),
      PGSSLKEY: file('client.key'),
    };
    expect(await session({ DATABASE_URL, ...certificates })).toEqual({ ssl: true, user: 'signals_producer' });
    expect(await session({ DATABASE_URL, PGSSLMODE: 'verify-full', ...CA })).toContain(
      'requires a valid client certificate',
    );
  });

  test('npm run migrate uses it', async () => {
    expect(await runMigrate({ DATABASE_URL: urlOf(), PGSSLMODE: 'verify-full', ...CA })).toMatchObject({
      code: 0,
      stderr: '',
    });
    expect(await runMigrate({ DATABASE_URL: urlOf(), PGSSLMODE: 'verify-full' })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('self-signed certificate'),
    });
  });

  test('a query that is given up is cancelled, with its secret encrypted', async () => {
    const beginnings: number[] = [];
    const recorder = createServer((client) => {
      const upstream = connect(server.port, '127.0.0.1');
      client.once('data', (bytes) => beginnings.push(bytes.readInt32BE(4)));
      client.pipe(upstream).pipe(client);
      client.on('error', () => upstream.destroy());
      upstream.on('error', () => client.destroy());
    }).listen(0, '127.0.0.1');
    await once(recorder, 'listening');
    const { port } = recorder.address() as { port: number };
    const pool = poolOf({ DATABASE_URL: urlOf({ port: String(port) }), PGSSLMODE: 'verify-full', ...CA });
    const sleeping = queryWithin(pool, { text: 'SELECT pg_sleep(20)', rowMode: 'array' }, 500);
    await expect(sleeping).rejects.toThrow('no answer within 500 ms');
    await vi.waitFor(async () => {
      const { rows } = await pool.query(`SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(20)'`);
      expect(rows).toEqual([]);
    });
    await pool.end();
    recorder.close();
    const SSL_REQUEST = 80_877_103;
    expect(beginnings).toEqual(beginnings.map(() => SSL_REQUEST));
  });
});

test.each([
  ['PGSSLMODE', 'verify_full'],
  ['PGSSLMODE', 'prefer'],
  ['PGSSLROOTCERT', file('none.crt')],
  ['PGSSLCERT', file('none.crt')],
  ['PGSSLKEY', file('none.key')],
])('%s=%s is refused by its name', (name, value) => {
  const { error } = databaseSettings({}).safeParse({ DATABASE_URL: 'postgres://me@db/db', [name]: value });
  expect(error?.issues.map(({ path }) => path.join('.'))).toEqual([name]);
});
