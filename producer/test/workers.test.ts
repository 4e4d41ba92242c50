/** INGEST_WORKERS: several processes that look like one, started as a user starts them. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { fileURLToPath } from 'node:url';
import { freePort } from '@pg-signals/local/embedded';
import { afterEach, expect, test, vi } from 'vitest';
import { postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));
const children: ChildProcess[] = [];
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});

/** A whole producer as a process; `log()` is what it said so far. */
function run(environment: Record<string, string>) {
  const child = spawn(process.execPath, [MAIN], {
    env: { PATH: process.env.PATH, DATABASE_URL: producers.databaseUrl, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (text += chunk));
  return { child, log: () => text, exited: once(child, 'exit').then(([code]) => code as number | null) };
}

async function runWorkers(workers: number) {
  const port = await freePort();
  const started = run({ PORT: String(port), INGEST_WORKERS: String(workers) });
  await vi.waitFor(() => expect(started.log()).toContain('Workers listen'), 20_000);
  return { ...started, url: `http://127.0.0.1:${port}` };
}

/** One request on a connection of its own: connections are dealt out to the workers in turn. */
async function get(url: string): Promise<string> {
  const request = http.get(url, { agent: false });
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  return Buffer.concat(await response.toArray()).toString();
}

/** The process ids of the workers, from what the primary's children are. */
function workerIds(primary: number): number[] {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n');
  return rows.flatMap((row) => {
    const [pid, parent] = row.trim().split(/\s+/).map(Number);
    return parent === primary ? [pid!] : [];
  });
}

test('the figures are summed over the workers, whichever is asked', async () => {
  const { url } = await runWorkers(2);
  await Promise.all(
    Array.from({ length: 10 }, () => postJson({ url }, { signal_name: 'a', signal_value: 1 }, { Connection: 'close' })),
  );
  for (let n = 0; n < 3; n++) expect(await get(`${url}/metrics`)).toMatch(/^signals_ingested_total 10$/m);
  expect(await get(`${url}/readyz`)).toBe('{"status":"ready"}');
});

test('a worker that dies is replaced, and SIGTERM stops all of them in order', async () => {
  const { url, child, log, exited } = await runWorkers(2);
  const [victim, survivor] = workerIds(child.pid!);
  process.kill(victim!, 'SIGKILL');
  await vi.waitFor(async () => {
    const now = workerIds(child.pid!);
    expect(now).toHaveLength(2);
    expect(now).toContain(survivor);
    expect(now).not.toContain(victim);
    expect(log().match(/Producer listens/g)).toHaveLength(3);
  }, 20_000);
  expect(log()).toContain('Worker ended, starting another');
  expect((await postJson({ url }, { signal_name: 'a', signal_value: 1 })).status).toBe(200);
  child.kill('SIGTERM');
  expect(await exited).toBe(0);
  await expect(get(url)).rejects.toThrow();
});

test('what was taken is finished before the workers end', async () => {
  const { url, child, exited } = await runWorkers(2);
  await producers.client.query('BEGIN; LOCK TABLE signals IN EXCLUSIVE MODE');
  const sent = Array.from({ length: 2 }, () =>
    postJson({ url }, { signal_name: 'last', signal_value: 1 }, { Connection: 'close' }),
  );
  await vi.waitFor(async () => {
    const { rows } = await producers.pool.query(
      `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
    );
    expect(rows).toHaveLength(2);
  }, 20_000);
  child.kill('SIGINT');
  await producers.client.query('COMMIT');
  expect((await Promise.all(sent)).map(({ status }) => status)).toEqual([200, 200]);
  expect(await exited).toBe(0);
});

test('a port that is taken ends all with code 1, and is said', async () => {
  const port = await freePort();
  const other = http.createServer().listen(port);
  await once(other, 'listening');
  const { exited, log } = run({ PORT: String(port), INGEST_WORKERS: '2' });
  expect(await exited).toBe(1);
  expect(log()).toContain(`Port ${port} is taken by another program`);
  other.close();
});
