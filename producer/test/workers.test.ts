/** INGEST_WORKERS: several processes that look like one from outside. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { fileURLToPath } from 'node:url';
import { freePort } from '@pg-signals/local/free-port';
import { afterEach, expect, test } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
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

/** A producer as its own process. */
function run(environment: Record<string, string>) {
  const child = spawn(process.execPath, [MAIN], {
    env: { PATH: process.env.PATH, DATABASE_URL: producers.databaseUrl, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  children.push(child);
  let log = '';
  const condition = new Condition();
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      log += chunk;
      condition.changed();
    });
  }
  return {
    child,
    log: () => log,
    /** Resolves when the process has logged a message so many times: its log is all that it shows of its workers. */
    logged: (message: string, times = 1) => condition.until(() => log.split(message).length > times),
    exited: once(child, 'exit').then(([code]) => code as number | null),
  };
}

async function runWorkers(workers: number) {
  const port = await freePort();
  const started = run({ PORT: String(port), INGEST_WORKERS: String(workers) });
  await started.logged('Workers listen');
  return { ...started, url: `http://127.0.0.1:${port}` };
}

/** A request on its own connection: the primary gives connections to the workers in turn. */
async function get(url: string): Promise<string> {
  const request = http.get(url, { agent: false });
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  return Buffer.concat(await response.toArray()).toString();
}

/** The process ids of the workers, which are the children of the primary. */
function workerIds(primary: number): number[] {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).trim().split('\n');
  return rows.flatMap((row) => {
    const [pid, parent] = row.trim().split(/\s+/).map(Number);
    return parent === primary ? [pid!] : [];
  });
}

test('the metrics are summed over the workers, whichever one answers', async () => {
  const { url } = await runWorkers(2);
  await Promise.all(
    Array.from({ length: 10 }, () => postJson({ url }, { signal_name: 'a', signal_value: 1 }, { Connection: 'close' })),
  );
  for (let n = 0; n < 3; n++) expect(await get(`${url}/metrics`)).toMatch(/^signals_ingested_total 10$/m);
  expect(await get(`${url}/readyz`)).toBe('{"status":"ready"}');
});

test('a worker that dies is replaced, and SIGTERM stops all of them', async () => {
  const { url, child, logged, exited } = await runWorkers(2);
  const [victim, survivor] = workerIds(child.pid!);
  process.kill(victim!, 'SIGKILL');
  await logged('Worker ended, starting another');
  await logged('Producer listens', 3);
  const workers = workerIds(child.pid!);
  expect(workers).toHaveLength(2);
  expect(workers).toContain(survivor);
  expect(workers).not.toContain(victim);
  expect((await postJson({ url }, { signal_name: 'a', signal_value: 1 })).status).toBe(200);
  child.kill('SIGTERM');
  expect(await exited).toBe(0);
  await expect(get(url)).rejects.toThrow();
});

test('the workers answer the requests they have taken before they end', async () => {
  const { url, child, exited } = await runWorkers(2);
  await producers.lock();
  const sent = Array.from({ length: 2 }, () =>
    postJson({ url }, { signal_name: 'last', signal_value: 1 }, { Connection: 'close' }),
  );
  await producers.insertsWait(2);
  child.kill('SIGINT');
  await producers.unlock();
  expect((await Promise.all(sent)).map(({ status }) => status)).toEqual([200, 200]);
  expect(await exited).toBe(0);
});

test('a port that is taken ends the process with code 1 and says so', async () => {
  const port = await freePort();
  const other = http.createServer().listen(port);
  await once(other, 'listening');
  const { exited, log } = run({ PORT: String(port), INGEST_WORKERS: '2' });
  expect(await exited).toBe(1);
  expect(log()).toContain(`Port ${port} is taken by another program`);
  other.close();
});
