import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { createLogger } from '../src/logger.ts';

async function logged(format: 'text' | 'json', message: string, fields: Record<string, unknown>, level = 'info') {
  const writes: string[] = [];
  const logger = createLogger({ format, write: (lines) => writes.push(lines) });
  logger.log(level, message, fields);
  await nextTurn();
  return writes.join('');
}

test('a line of text has the time in UTC, the level, the message and its fields', async () => {
  expect(
    await logged('text', 'notification received', { id: 7, signal_name: 'test_signal', signal_value: 0.5 }),
  ).toMatch(
    /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO notification received id=7 signal_name=test_signal signal_value=0\.5\n$/,
  );
});

test('a value with spaces, quotes or line breaks is quoted, so that a line stays a line', async () => {
  expect(await logged('text', 'm', { a: 'two words', b: 'x="1"', c: 'a\nb', d: { e: 1 }, f: '' })).toContain(
    'm a="two words" b="x=\\"1\\"" c="a\\nb" d={"e":1} f=""\n',
  );
});

test('a line of JSON has the same fields', async () => {
  expect(JSON.parse(await logged('json', 'notification received', { id: 7, signal_name: 'two words' }))).toEqual({
    timestamp: expect.stringMatching(/Z$/),
    level: 'info',
    message: 'notification received',
    id: 7,
    signal_name: 'two words',
  });
});

test('an error is logged with its stack in both forms', async () => {
  const error = new Error('broken');
  expect(await logged('text', 'm', { error })).toContain('Error: broken\\n');
  expect(JSON.parse(await logged('json', 'm', { error })).error).toMatchObject({ message: 'broken' });
});

const SECRETS = [
  'postgres://me:s3cr3t@host/db',
  'postgres://me:s3cr3t%40@host:5432/db',
  'postgres://me:s3cr3t/s3cr3t@host/db',
  'postgres://me:s3cr3t@s3cr3t@host/db',
  'a "postgres://me:s3cr3t@host/db" and redis://:s3cr3t@host',
  'host=h user=me password=s3cr3t dbname=d',
  "host=h password='s3cr3t s3cr3t' dbname=d",
  'PGPASSWORD=s3cr3t psql',
  'POSTGRES_PASSWORD: s3cr3t',
  '{"password": "s3cr3t s3cr3t"}',
  'INGEST_TOKEN=s3cr3t',
];
test.each(
  SECRETS.flatMap((secret) => [
    ['text', secret],
    ['json', secret],
  ]),
)('a line of %s never has the password of %s', async (format, secret) => {
  const line = await logged(format as 'text', 'm', {
    reason: `no connection to ${secret}`,
    error: new Error(`no connection to ${secret}`),
    nested: { list: [secret] },
  });
  expect(line).toContain('***');
  expect(line).not.toContain('s3cr3t');
});

test.each(['text', 'json'] as const)('an address without a password stays as it is in a line of %s', async (format) => {
  for (const text of ['http://127.0.0.1:8080', 'postgres://me@host/db', 'mail me@host: 3://']) {
    expect(await logged(format, 'm', { text })).toContain(text);
  }
});

test('what a signal holds is logged as it is', async () => {
  const fields = { signal_name: 'http://a:b@c', attributes: { link: 'http://a:b@c', password: 'password=x' } };
  expect(JSON.parse(await logged('json', 'm', fields))).toMatchObject(fields);
  expect(await logged('text', 'm', fields)).toContain(
    'signal_name=http://a:b@c attributes={"link":"http://a:b@c","password":"password=x"}',
  );
});

const LONG = 400_000;
test.each([
  ['letters', 'a'],
  ['schemes', 'a://'],
  ['users', '://a:'],
  ['at signs', '://a:@'],
  ['names of secrets', 'password='],
  ['opened quotes', "password='"],
  ['spaces after a name', `password${' '.repeat(50)}`],
  ['quotes', '"'],
  ['escapes', '\u001b'],
])('a long text of %s takes time in proportion to its length', async (_, part) => {
  const text = `${part.repeat(LONG / part.length)}://${part.repeat(10)}`;
  for (const format of ['text', 'json'] as const) {
    const before = process.cpuUsage();
    await logged(format, 'm', { signal_name: text, reason: text, error: new Error(text) });
    const { user } = process.cpuUsage(before);
    expect(user / 1_000).toBeLessThan(1_000); // ms; a square of this length takes minutes
  }
});

/** Moves a terminal's cursor, in one character or two; ends a line for some readers; turns the direction of text. */
const CONTROLS = [
  '\u001b[2J',
  '\u009b2J',
  '\u0007',
  '\r',
  '\n',
  '\u0085',
  '\u007f',
  '\u2028',
  '\u2029',
  '\u202e',
  '\u2066',
];
test.each(['text', 'json'] as const)('no control character or line separator reaches a line of %s', async (format) => {
  for (const control of CONTROLS) {
    const text = `a${control}b`;
    const line = await logged(format, `m${control}`, {
      name: text,
      attributes: { [text]: text },
      error: new Error(text),
    });
    expect(line.slice(0, -1)).toMatch(/^[^\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]+$/u);
    if (format === 'json') expect(JSON.parse(line)).toMatchObject({ name: text, attributes: { [text]: text } });
  }
});

test('a backslash is told from an escape', async () => {
  expect(await logged('text', 'm', { a: '\\u001b', b: '\u001b' })).toContain('a="\\\\u001b" b="\\u001b"\n');
});

test('in JSON no field takes the place of the time, level or message of the line', async () => {
  const before = new Date().toISOString();
  const line = JSON.parse(await logged('json', 'm', { timestamp: '1850-01-01T00:00:00+00:00', level: 'error' }));
  expect(line).toMatchObject({ level: 'info', message: 'm', signal_timestamp: '1850-01-01T00:00:00+00:00' });
  expect(line.timestamp >= before).toBe(true);
});

test('the lines of one turn leave in one write', async () => {
  const writes: string[] = [];
  const logger = createLogger({ write: (lines) => writes.push(lines) });
  for (let n = 0; n < 5; n++) logger.info('line', { n });
  await nextTurn();
  expect(writes).toHaveLength(1);
  expect(writes[0]!.match(/\n/g)).toHaveLength(5);
});
