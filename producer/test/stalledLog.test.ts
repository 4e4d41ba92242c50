/** A producer whose standard output no one reads: it answers on, and says how many lines its log lacks. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { post, useProducers } from './testProducer.ts';

const producers = useProducers();
const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

test('a log that no one reads holds up no request, and lacks what its metric and one line say', async () => {
  const producer = spawn(process.execPath, [MAIN], {
    cwd: '/',
    env: { PATH: process.env.PATH, DATABASE_URL: producers.databaseUrl, PORT: '0' },
    stdio: ['ignore', 'pipe', 'ignore', 'ipc'],
  });
  onTestFinished(() => void producer.kill('SIGKILL'));
  const [{ url }] = (await once(producer, 'message')) as [{ url: string }];
  while (!(await fetch(`${url}/readyz`).catch(() => undefined))?.ok);

  const SIGNALS = 40_000;
  const line = `${JSON.stringify({ signal_name: 'x'.repeat(255), signal_value: 1 })}\n`;
  const type = { 'Content-Type': 'application/x-ndjson' };
  expect((await post({ url }, line.repeat(SIGNALS), type)).body).toMatchObject({ accepted: SIGNALS });

  const metrics = await (await fetch(`${url}/metrics`)).text();
  const dropped = Number(/^signals_log_lines_dropped_total (\d+)$/m.exec(metrics)?.[1]);
  expect(dropped).toBeGreaterThan(0);
  producer.kill('SIGTERM');
  const [log, [code]] = await Promise.all([producer.stdout!.setEncoding('utf8').toArray(), once(producer, 'exit')]);
  const lines = log.join('').split('\n');
  expect(lines.filter((line) => line.includes('Inserting data into database'))).toHaveLength(SIGNALS - dropped);
  expect(log.join('')).toContain('WARN Log lines were dropped while no one read the log lines=');
  expect(code).toBe(0);
});
