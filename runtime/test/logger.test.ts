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

test.each(['text', 'json'] as const)('passwords of URLs are never in a line of %s', async (format) => {
  const line = await logged(format, 'to postgres://me:secret@host/db', {
    url: 'postgres://me:sec%40ret@host:5432/db',
    error: new Error('could not reach postgresql://me:secret@host/db'),
  });
  expect(line).toContain('postgres://me:***@host/db');
  expect(line).not.toMatch(/secret|sec%40ret/);
});

test('the lines of one turn leave in one write', async () => {
  const writes: string[] = [];
  const logger = createLogger({ write: (lines) => writes.push(lines) });
  for (let n = 0; n < 5; n++) logger.info('line', { n });
  await nextTurn();
  expect(writes).toHaveLength(1);
  expect(writes[0]!.match(/\n/g)).toHaveLength(5);
});
