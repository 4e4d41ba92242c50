/** `.env` as docker compose reads it, beside how our services do. */
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { readEnvFile } from '@pg-signals/runtime';
import { expect, test } from 'vitest';

const run = promisify(execFile);
const missing = await run('docker', ['compose', 'version']).then(
  () => undefined,
  (error: Error) => error.message,
);
if (missing) console.log(`skipped: .env as docker compose reads it, since that is not installed: ${missing}`);

const LINES = [
  'plain',
  'with spaces in it',
  '',
  "'a#b'",
  "'a$b'",
  "'a $PATH b'",
  `'a"b'`,
  "'a\\nb\\\\'",
  "'a`b' # a comment",
  'a # a comment',
  `"it's"`,
  "'ünïcode'",
  'postgres://me:secret@host:5432/db?sslmode=require&a=%41',
];

test.skipIf(missing)('every value that our services take from .env is the same to docker compose', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-env-'));
  try {
    const names = LINES.map((_, index) => `PG_SIGNALS_TEST_${index}`);
    const example = readFileSync(fileURLToPath(new URL('../../.env.example', import.meta.url)), 'utf8');
    const env = [example.replaceAll(/^#(?=[A-Z_]+=)/gm, ''), ...LINES.map((line, index) => `${names[index]}=${line}`)];
    writeFileSync(path.join(directory, '.env'), `${env.join('\n')}\n`);
    const ours = readEnvFile(path.join(directory, '.env'));
    expect(Object.keys(ours)).toEqual(expect.arrayContaining(names));
    // Once passed through, as LOG_LEVEL, and once in a value, as PORT.
    const variables = Object.keys(ours).flatMap((name) => [`      ${name}:`, `      OF_${name}: '\${${name}}'`]);
    const services = ['services:', '  one:', '    image: one', '    environment:', ...variables];
    writeFileSync(path.join(directory, 'docker-compose.yml'), services.join('\n'));
    const config = ['compose', '--project-directory', directory, 'config', '--format', 'json'];
    const { stdout } = await run('docker', config, { cwd: directory, env: { PATH: process.env.PATH } });
    const theirs: Record<string, string> = JSON.parse(stdout).services.one.environment;
    for (const [name, value] of Object.entries(ours)) {
      // The output is a compose file again, in which $$ stands for $.
      const [passed, inValue] = [theirs[name], theirs[`OF_${name}`]].map((text) => text?.replaceAll('$$', '$'));
      expect({ name, passed, inValue }).toEqual({ name, passed: value, inValue: value });
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
});
