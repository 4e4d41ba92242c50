/** Which database the environment names. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { afterAll, describe, expect, test } from 'vitest';
import { databaseSettings } from '../src/settings.ts';

const schema = databaseSettings({});
const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-settings-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** What `pg` makes of the settings. */
function target(environment: Record<string, string>) {
  const { host, port, user, password, database } = new pg.Client(schema.parse(environment).DATABASE_URL);
  return { host, port, user, password, database };
}

/** The names of the variables that are wrong. */
const wrong = (environment: Record<string, string>) =>
  schema.safeParse(environment).error?.issues.map(({ path }) => path.join('.'));

const ODD = `a#b$c'd"e\\f g@h/i:j%41?k&l`;

describe('the parts', () => {
  test('have defaults; user and password may hold any character', () => {
    const database = `a$b 'c"d%41e@f:g/h`;
    expect(target({ POSTGRES_USER: ODD, POSTGRES_PASSWORD: ODD, POSTGRES_DB: database })).toEqual({
      host: 'localhost',
      port: 5432,
      user: ODD,
      password: ODD,
      database,
    });
    expect(target({ POSTGRES_USER: 'me', POSTGRES_PORT: '5433' })).toMatchObject({ port: 5433, database: 'me' });
  });

  test.each(['::1', '127.0.0.1', 'db', 'db-1.example_x.org', '/var/run/postgresql', '/tmp/a folder'])(
    'the host may be %s',
    (host) => {
      expect(target({ POSTGRES_USER: 'me', POSTGRES_HOST: host, POSTGRES_PORT: '5433' })).toMatchObject({
        host,
        port: 5433,
      });
    },
  );

  test('a password may come from a file, without the end of its line', () => {
    const file = path.join(directory, 'password');
    writeFileSync(file, `${ODD}\n`);
    expect(target({ POSTGRES_USER: 'me', POSTGRES_PASSWORD_FILE: file }).password).toBe(ODD);
  });

  test('each wrong one is named by its own variable, all at once', () => {
    expect(
      wrong({
        POSTGRES_USER: 'me',
        POSTGRES_HOST: '[::1]',
        POSTGRES_PORT: '54x',
        POSTGRES_PASSWORD_FILE: path.join(directory, 'none'),
      }),
    ).toEqual(['POSTGRES_HOST', 'POSTGRES_PORT', 'POSTGRES_PASSWORD_FILE']);
    expect(wrong({ POSTGRES_USER: 'me', POSTGRES_PORT: '65536', POSTGRES_DB: 'a?b' })).toEqual([
      'POSTGRES_PORT',
      'POSTGRES_DB',
    ]);
    expect(wrong({})).toEqual(['DATABASE_URL']);
  });
});

describe('DATABASE_URL', () => {
  test.each([
    ['postgres://me:secret@[::1]:5433/signals', '::1', 5433],
    ['postgres://me:secret@%2Fvar%2Frun%2Fpostgresql:5433/signals', '/var/run/postgresql', 5433],
    ['postgresql://me:secret@/signals?host=/var/run/postgresql', '/var/run/postgresql', 5432],
    ['postgres://me:secret@db/signals', 'db', 5432],
  ])('may be %s', (url, host, port) => {
    expect(target({ DATABASE_URL: url })).toEqual({ host, port, user: 'me', password: 'secret', database: 'signals' });
  });

  test('is used instead of the parts', () => {
    expect(target({ DATABASE_URL: 'postgres://a@b/c', POSTGRES_USER: 'me' })).toMatchObject({ user: 'a', host: 'b' });
  });

  test.each(['mysql://me@db/signals', 'me:secret@db/signals', 'postgres://me@db:99999/signals', 'postgres:signals'])(
    'is wrong as %s',
    (url) => expect(wrong({ DATABASE_URL: url })).toEqual(['DATABASE_URL']),
  );

  test.each([
    'me:s3cr3t@db/signals',
    'host=db user=me password=s3cr3t',
    'postgres://me:s3cr3t%zz@db/signals',
    'postgres://me:12/s3cr3t@db/signals',
    'postgres://me:12#s3cr3t@db/signals',
    'postgres://me:12?s3cr3t@db/signals',
  ])('is wrong, and not repeated, as %s', (url) => {
    const { error } = schema.safeParse({ DATABASE_URL: url });
    expect(error?.issues.map(({ path }) => path)).toEqual([['DATABASE_URL']]);
    expect(error?.message).not.toContain('s3cr3t');
  });

  test.each(['postgres://me:s%2Fcr%403t@db/signals', 'postgres://me:a@b@db/signals', 'postgres://db/a?user=me@tenant'])(
    'is right as %s',
    (url) => expect(wrong({ DATABASE_URL: url })).toBeUndefined(),
  );
});
