import { expect, test } from 'vitest';
import { z } from 'zod';
import { commonVariables, port, readSettings } from '../src/settings.ts';

const schema = z.object({ ...commonVariables, PORT: port(8080), SECRET_URL: z.url() });

test('a variable that is not set has its default, and an empty one counts as not set', () => {
  expect(readSettings(schema, { SECRET_URL: 'http://a', PORT: '', LOG_LEVEL: 'debug' })).toEqual({
    HOST: '127.0.0.1',
    PORT: 8080,
    LOG_LEVEL: 'debug',
    LOG_FORMAT: 'text',
    SHUTDOWN_TIMEOUT_MS: 10_000,
    SECRET_URL: 'http://a',
  });
});

test('every wrong or missing variable is named at once, with what was expected and what was given', () => {
  const read = () =>
    readSettings(schema, { PORT: 'eighty', HOST: 'every address', LOG_LEVEL: 'loud', LOG_FORMAT: 'json' });
  expect(read).toThrow(/PORT: expected a whole number from 0 to 65535, got "eighty"/);
  expect(read).toThrow(/HOST: expected an address of this machine: .*, got "every address"/);
  expect(read).toThrow(/LOG_LEVEL: expected one of "error"\|"warn"\|"info"\|"debug", got "loud"/);
  expect(read).toThrow(/SECRET_URL: .*, but it is missing/);
});

test.each([
  ['DATABASE_URL', 'mysql://me:s3cr3t@host'],
  ['DATABASE_URL', 's3cr3t'],
  ['DATABASE_URL', 'signals:s3cr3t@h/d'],
  ['DATABASE_URL', 'host=h user=me password=s3cr3t'],
  ['POSTGRES_PASSWORD', 's3cr3t'],
  ['INGEST_TOKEN', 's3cr3t'],
  ['PORT', 'postgres://me:s3cr3t@host'],
  ['PORT', 'me:s3cr3t@host'],
  ['PORT', 's3cr3t%40'],
  ['PORT', '\u001b[2Js3cr3t'],
])('a wrong %s is not repeated where it may hold a password: %s', (name, value) => {
  const read = () => readSettings(z.object({ [name]: z.literal('right') }), { [name]: value });
  expect(read).toThrow(new RegExp(`^${name}: expected "right"$`));
});
