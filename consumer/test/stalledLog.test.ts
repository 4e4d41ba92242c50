/** A consumer whose standard output no one reads: the table keeps what its log has no room for. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import { NODE_FLAGS } from '@pg-signals/runtime';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Writer } from '../../client/test/testListener.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

let database: TestDatabase;
let writer: Writer;
let url: string;
let consumer: ChildProcess;
beforeEach(async () => {
  database = await createTestDatabase();
  writer = await Writer.connect(database.url);
  const env = { PATH: process.env.PATH, DATABASE_URL: database.url, PORT: '0', SHUTDOWN_TIMEOUT_MS: '1500' };
  // Of a pipe that is not read, node takes 64 kB.
  consumer = spawn(process.execPath, [...NODE_FLAGS, MAIN], {
    cwd: '/',
    env,
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  [{ url }] = (await once(consumer, 'message')) as [{ url: string }];
  await until(async () => (await fetch(`${url}/readyz`)).status === 200);
});
afterEach(async () => {
  if (consumer.exitCode === null && consumer.signalCode === null) {
    consumer.kill('SIGKILL');
    await once(consumer, 'exit');
  }
  await writer.end();
  await database.drop();
});

/** Asks again and again, since another process gives no event; a request that fails counts as no. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds().catch(() => false)));
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)`, 'm').exec(text)?.[1]);
}

async function insert(rows: number, { padding = 0 } = {}) {
  const attributes = `jsonb_build_object('padding', repeat('x', ${padding}))`;
  await writer.client.query(
    `INSERT INTO signals (signal_name, signal_value, attributes) SELECT 'a', n, ${attributes} FROM generate_series(1, ${rows}) n`,
  );
}

/** The most memory that the process has held so far, in MB. */
function peakMemory(): number {
  const status = readFileSync(`/proc/${consumer.pid}/status`, 'utf8');
  return Number(/VmHWM:\s+(\d+) kB/.exec(status)![1]) / 1_000;
}

test.skipIf(process.platform !== 'linux')(
  'a log that no one reads holds up the signals and takes little memory, and each is logged once afterwards',
  async () => {
    const ROWS = 60_000;
    await insert(ROWS, { padding: 1_000 });
    // The server has sent all of them; other tests leave a little in its queue.
    await until(async () => {
      const { rows } = await writer.client.query('SELECT pg_notification_queue_usage() AS usage');
      return rows[0].usage < 0.001;
    });
    const notReady = await fetch(`${url}/readyz`);
    expect(await notReady.json()).toMatchObject({
      status: 503,
      detail: expect.stringContaining('log is not being read'),
    });
    expect(await metric('signals_log_waiting_bytes')).toBeGreaterThan(0);
    const ids: number[] = [];
    let rest = '';
    for await (const text of consumer.stdout!.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      for (const line of lines) {
        const id = /^\S+ INFO notification received id=(\d+) /.exec(line)?.[1];
        if (id) ids.push(Number(id));
      }
      if (ids.length >= ROWS) break;
    }
    expect(new Set(ids).size).toBe(ROWS);
    expect(peakMemory()).toBeLessThan(250);
    expect(await metric('signals_log_lines_dropped_total')).toBe(0);
    await until(async () => (await fetch(`${url}/readyz`)).status === 200);
    consumer.stdout!.resume();
    consumer.kill('SIGTERM');
    expect(await once(consumer, 'exit')).toEqual([0, null]);
  },
);

test('a stop while no one reads the log is forced in time, and standard error says why', async () => {
  await insert(10_000);
  await until(async () => (await fetch(`${url}/readyz`)).status === 503);
  let errors = '';
  consumer.stderr!.on('data', (chunk) => {
    errors += chunk;
  });
  consumer.kill('SIGTERM');
  expect(await once(consumer, 'exit')).toEqual([1, null]);
  expect(errors).toContain('ERROR Stopped by force');
});
