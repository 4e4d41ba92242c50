/** No program repeats a password that it was given, wherever it was put. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { createTestDatabase } from '@pg-signals/local/testing';
import { expect, onTestFinished, test } from 'vitest';

/** What a program prints until it ends, or until a line matches. */
async function output(program: string, args: string[], env: NodeJS.ProcessEnv, last = /(?!)/): Promise<string> {
  const main = fileURLToPath(new URL(`../../${program}`, import.meta.url));
  const child = spawn(process.execPath, [main, ...args], {
    cwd: '/',
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  let text = '';
  const read = async (stream: AsyncIterable<Buffer>) => {
    for await (const chunk of stream) {
      text += chunk;
      if (last.test(text)) child.kill('SIGKILL');
    }
  };
  await Promise.all([read(child.stdout), read(child.stderr)]);
  return text;
}

test('a wrong DATABASE_URL is named and not repeated', async () => {
  const programs = ['producer/src/main.ts', 'consumer/src/main.ts', 'db/src/main.ts', 'local/src/run.ts'];
  const DATABASE_URL = 'signals:s3cr3t@h/d';
  const texts = await Promise.all(programs.map((program) => output(program, [], { DATABASE_URL })));
  for (const text of texts) {
    expect(text).toMatch(/^DATABASE_URL: expected /m);
    expect(text).not.toContain('s3cr3t');
  }
});

test('an argument that is wrong is not repeated where it may be a URL', async () => {
  const url = 'http://me:s3cr3t@localhost/ingest';
  const texts = await Promise.all([
    output('db/src/main.ts', ['postgres://me:s3cr3t@h/d'], {}),
    output('producer/src/send/main.ts', ['--name', 'a', '--value', '1', '--url', url], {}),
    output('producer/src/send/main.ts', ['--name', 'a', '--value', '1', '--url', 'me:s3cr3t@localhost'], {}),
  ]);
  for (const text of texts) {
    expect(text).toContain('expected');
    expect(text).not.toContain('s3cr3t');
  }
});

test('a password that the server refuses, or that leads nowhere, stays out of the log', async () => {
  const database = await createTestDatabase();
  const wrong = new URL(database.url);
  [wrong.username, wrong.password] = ['no_such_role', 's3cr3t'];
  const nowhere = new URL(wrong);
  nowhere.hostname = 'nowhere.invalid';
  const logs = [wrong.href, nowhere.href].map((DATABASE_URL) =>
    output('consumer/src/main.ts', [], { DATABASE_URL, LOG_FORMAT: 'json', PORT: '0' }, /Not listening/),
  );
  for (const log of await Promise.all(logs)) {
    expect(log).toContain('Not listening');
    expect(log).not.toContain('s3cr3t');
  }
  await database.drop();
});
