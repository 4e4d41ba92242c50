/** The load generator, a process of its own: wrk if it is installed, else autocannon, whose limit is lower. */
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../process.ts';
import { cpuSecondsOfEndedChildren } from '../usage.ts';

export const generatorName = await run(['wrk', '--version']).catch(({ code, stdout }) =>
  code === 'ENOENT' ? 'autocannon' : stdout.split(' ', 2).join(' '),
);

/**
 * POSTs without a body for so many seconds; each connection sends its next request when it has the answer. Resolves with
 * the requests, p50 and p99 from a request to its answer in ms, and the CPU time of the generator itself in s.
 *
 * @throws {Error} when a request was not answered 2xx, or a connection broke.
 */
export async function generateLoad(url: string, connections: number, seconds: number) {
  const before = cpuSecondsOfEndedChildren();
  const { failed, ...load } = await (generatorName === 'autocannon' ? autocannon : wrk)(url, connections, seconds);
  if (failed > 0 || load.requests === 0) {
    throw new Error(`${url}, ${connections} connections: ${load.requests} requests were answered, ${failed} failed`);
  }
  return { ...load, cpuSeconds: cpuSecondsOfEndedChildren() - before };
}

type Load = Record<'requests' | 'seconds' | 'p50' | 'p99' | 'failed', number>;

async function wrk(url: string, connections: number, seconds: number): Promise<Load> {
  const flags = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '30s'];
  const printed = await run(['wrk', ...flags, '-s', path.join(import.meta.dirname, 'post.lua'), url]);
  return JSON.parse(/^RESULT (.*)$/m.exec(printed)![1]!);
}

async function autocannon(url: string, connections: number, seconds: number): Promise<Load> {
  const program = fileURLToPath(import.meta.resolve('autocannon'));
  const flags = ['-m', 'POST', '-c', `${connections}`, '-d', `${seconds}`, '-t', '30', '--json'];
  const { requests, duration, latency, non2xx, errors } = JSON.parse(
    await run([process.execPath, program, ...flags, url]),
  );
  return { requests: requests.total, seconds: duration, p50: latency.p50, p99: latency.p99, failed: non2xx + errors };
}
