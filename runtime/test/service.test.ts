import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';

const fixture = fileURLToPath(new URL('fixtures/service.ts', import.meta.url));

/** Runs the fixture, and sends it SIGTERM at each of these events. */
async function run(behaviour: string, env: Record<string, string>, ...sigterm: ('started' | 'stopping')[]) {
  const child = fork(fixture, [behaviour], { cwd: '/', env: { PATH: process.env.PATH, ...env }, silent: true });
  child.on('message', (message) => {
    if (sigterm.includes(message === 'stopping' ? message : 'started')) child.kill('SIGTERM');
  });
  let output = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk) => {
      output += chunk;
    });
  }
  const [code] = await once(child, 'close');
  return { code, output };
}

test('SIGTERM stops it in order, with code 0', async () => {
  const { code, output } = await run('', { NEEDED: '1' }, 'started');
  expect(output).toMatch(/INFO Started\n.*INFO Stopping signal=SIGTERM timeout_ms=10000\n.*INFO Stopped\n$/s);
  expect(code).toBe(0);
});

test('a parent with a channel gets its URL when it has started, whatever the level of the log', async () => {
  const { event } = runUnread('', { env: { LOG_LEVEL: 'error' } });
  expect(await event()).toEqual([{ url: 'http://fixture.test' }, undefined]);
});

test('a stop that takes too long is forced, with code 1', async () => {
  const { code, output } = await run('never stops', { NEEDED: '1', SHUTDOWN_TIMEOUT_MS: '50' }, 'started');
  expect(output).toContain('ERROR Stopped by force');
  expect(code).toBe(1);
});

test('a second signal stops it at once, with code 1', async () => {
  const { code, output } = await run('never stops', { NEEDED: '1' }, 'started', 'stopping');
  expect(output).toContain('ERROR Stopped at once by a second signal');
  expect(code).toBe(1);
});

test('wrong settings are reported without a stack trace, with code 1', async () => {
  expect(await run('', { LOG_LEVEL: 'loud' })).toEqual({
    code: 1,
    output: expect.stringMatching(/^LOG_LEVEL: [^\n]*, got "loud"\nNEEDED: [^\n]*, but it is missing\n$/),
  });
});

test('a start that fails is logged, with code 1', async () => {
  const { code, output } = await run('start fails', { NEEDED: '1' });
  expect(output).toContain('ERROR Could not start reason="no such thing"');
  expect(code).toBe(1);
});

test('a service that cannot go on says why, and ends with code 1', async () => {
  const { code, output } = await run('gives up', { NEEDED: '1' });
  expect(output).toMatch(/INFO Started\n.*ERROR Could not go on reason="no such thing"\n$/);
  expect(code).toBe(1);
});

test('an uncaught error is logged and ends it with code 1', async () => {
  const { code, output } = await run('crashes', { NEEDED: '1' });
  expect(output).toMatch(/ERROR Uncaught error, ending error="Error: unforeseen/);
  expect(code).toBe(1);
});

/** The fixture with an output that no one reads, until the test does. */
function runUnread(behaviour: string, { env = {}, stdout = 'pipe' as 'pipe' | number } = {}) {
  const child = fork(fixture, [behaviour], {
    cwd: '/',
    env: { PATH: process.env.PATH, NEEDED: '1', ...env },
    stdio: ['ignore', stdout, 'pipe', 'ipc'],
  });
  onTestFinished(() => void child.kill('SIGKILL'));
  return { child, exited: once(child, 'exit').then(([code]) => code), event: () => once(child, 'message') };
}

test('a stop waits until its log is read', async () => {
  const { child, event, exited } = runUnread('logs 10000 lines');
  await event();
  child.kill('SIGTERM');
  await event(); // stopping
  const output = (await child.stdout!.setEncoding('utf8').toArray()).join('');
  expect(output.match(/INFO Line /g)).toHaveLength(10_000);
  expect(output).toMatch(/INFO Stopped\n$/);
  expect(await exited).toBe(0);
});

test('a stop whose log no one reads is forced in time, with code 1, and standard error says why', async () => {
  const { child, event, exited } = runUnread('logs 10000 lines', { env: { SHUTDOWN_TIMEOUT_MS: '50' } });
  await event();
  child.kill('SIGTERM');
  const errors = await child.stderr!.setEncoding('utf8').toArray();
  expect(errors.join('')).toContain('ERROR Stopped by force');
  expect(await exited).toBe(1);
});

test('an uncaught error ends it at once where no one reads the log, and standard error says why', async () => {
  const { child, exited } = runUnread('logs 10000 lines and crashes');
  const errors = await child.stderr!.setEncoding('utf8').toArray();
  expect(errors.join('')).toContain('ERROR Uncaught error, ending error="Error: unforeseen');
  expect(await exited).toBe(1);
});

test('lines past the bound are dropped, counted, and said once when the log is read again', async () => {
  const { child, event, exited } = runUnread('logs 100000 lines');
  await event();
  child.send(1);
  const [{ dropped }] = await event();
  expect(dropped).toBeGreaterThan(0);
  let output = '';
  for await (const text of child.stdout!.setEncoding('utf8')) {
    output += text;
    if (!child.killed && /WARN .*\n/.test(output.slice(-1_000))) child.kill('SIGTERM');
  }
  expect(output.match(/INFO Line /g)).toHaveLength(100_000 - (dropped - 1)); // the answer to the message is the other one
  expect(output.match(/WARN .*/g)).toEqual([`WARN Log lines were dropped while no one read the log lines=${dropped}`]);
  expect(await exited).toBe(0);
});

test('it works on when the reader of its log is gone, and counts the lines', async () => {
  const { child, event, exited } = runUnread('logs 10000 lines');
  await event();
  child.stdout!.destroy();
  for (let dropped = 0; dropped < 100; ) {
    child.send(1);
    [{ dropped }] = await event();
  }
  child.kill('SIGTERM');
  expect(await exited).toBe(0);
});

test('a log into a file has every line, up to the error that ends it', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-log-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const file = path.join(directory, 'service.log');
  const { exited } = runUnread('logs 100000 lines and crashes', { stdout: openSync(file, 'w') });
  expect(await exited).toBe(1);
  const output = readFileSync(file, 'utf8');
  expect(output.match(/INFO Line /g)).toHaveLength(100_000);
  expect(output).toMatch(/ERROR Uncaught error, ending .*\n$/);
});
