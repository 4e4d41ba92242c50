import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';

const fixture = fileURLToPath(new URL('fixtures/service.ts', import.meta.url));

/** Runs the fixture, and sends it SIGTERM at each of these events. */
async function run(behaviour: string, env: Record<string, string>, ...sigterm: ('started' | 'stopping')[]) {
  const child = fork(fixture, [behaviour], { cwd: '/', env: { PATH: process.env.PATH, ...env }, silent: true });
  child.on('message', (event: 'started' | 'stopping') => sigterm.includes(event) && child.kill('SIGTERM'));
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

test('an uncaught error is logged and ends it with code 1', async () => {
  const { code, output } = await run('crashes', { NEEDED: '1' });
  expect(output).toMatch(/ERROR Uncaught error, ending error="Error: unforeseen/);
  expect(code).toBe(1);
});
