/** INGEST_WORKERS: several processes that look like one from outside. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import { expect, test } from 'vitest';
import { useProcesses } from './producerProcess.ts';
import { postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const { run, listening } = useProcesses(producers);
const runWorkers = (workers: number, environment: Record<string, string> = {}) =>
  listening({ INGEST_WORKERS: String(workers), ...environment });

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

test('with HEALTH_PORT any of the workers answers there for all', async () => {
  const { url, log, logged } = await runWorkers(2, { HEALTH_PORT: '0' });
  await logged('health_url=');
  await Promise.all(
    [1, 2].map(() => postJson({ url }, { signal_name: 'a', signal_value: 1 }, { Connection: 'close' })),
  );
  const health = /health_url=(\S+)/.exec(log())![1];
  for (let n = 0; n < 2; n++) expect(await get(`${health}/metrics`)).toMatch(/^signals_ingested_total 2$/m);
  expect(await get(`${url}/metrics`)).toContain('"status":404');
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
  const other = http.createServer().listen(0);
  await once(other, 'listening');
  const { port } = other.address() as { port: number };
  const { exited, log } = run({ PORT: String(port), INGEST_WORKERS: '2' });
  expect(await exited).toBe(1);
  expect(log()).toContain(`Port ${port} is taken by another program`);
  other.close();
});

test('workers that get a second signal, as when the whole process group gets one, end in order too', async () => {
  const { url, child, exited, log, logged } = await runWorkers(2);
  await producers.lock();
  const sent = Array.from({ length: 2 }, () =>
    postJson({ url }, { signal_name: 'group', signal_value: 1 }, { Connection: 'close' }),
  );
  await producers.insertsWait(2);
  const workers = workerIds(child.pid!);
  child.kill('SIGTERM');
  await logged('Stopping', 3);
  for (const worker of workers) process.kill(worker, 'SIGTERM');
  await producers.unlock();
  expect((await Promise.all(sent)).map(({ status }) => status)).toEqual([200, 200]);
  expect(await exited).toBe(0);
  expect(log()).not.toMatch(/ERROR/);
});
