/** The load generator: wrk where it is installed, else autocannon; a process of its own in both cases. */
import { execFile, spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cpuSecondsOfEndedChildren } from './cpu.ts';

export interface Load {
  requests: number;
  seconds: number;
  /** From the request to its answer, in ms. */
  p50: number;
  p99: number;
  /** Of the generator itself, in s. */
  cpuSeconds: number;
}

export interface LoadGenerator {
  readonly name: string;
  /**
   * POSTs without a body for so many seconds, each connection one request at a time.
   *
   * @throws {Error} when a request was not answered 2xx, or a connection broke.
   */
  run(url: string, connections: number, seconds: number): Promise<Load>;
}

const run = promisify(execFile);

export function findLoadGenerator(): LoadGenerator {
  const wrk = spawnSync('wrk', ['--version'], { encoding: 'utf8' });
  return wrk.error ? autocannon : { name: wrk.stdout.split(' ', 2).join(' '), run: measured(runWrk) };
}

type Outcome = Omit<Load, 'cpuSeconds'> & { refused: number; broken: number };

function measured(generate: (url: string, connections: number, seconds: number) => Promise<Outcome>) {
  return async (url: string, connections: number, seconds: number): Promise<Load> => {
    const before = cpuSecondsOfEndedChildren();
    const { refused, broken, ...load } = await generate(url, connections, seconds);
    if (refused + broken > 0 || load.requests === 0) {
      throw new Error(
        `${url}, ${connections} connections: ${load.requests} answered, ${refused} refused, ${broken} broken`,
      );
    }
    return { ...load, cpuSeconds: cpuSecondsOfEndedChildren() - before };
  };
}

async function runWrk(url: string, connections: number, seconds: number): Promise<Outcome> {
  const script = fileURLToPath(new URL('post.lua', import.meta.url));
  const flags = ['-t1', `-c${connections}`, `-d${seconds}s`, '--timeout', '30s', '-s', script, url];
  const { stdout } = await run('wrk', flags, { timeout: (seconds + 60) * 1_000 });
  const { microseconds, p50, p99, ...counts } = JSON.parse(/^RESULT (.*)$/m.exec(stdout)![1]!);
  return { ...counts, seconds: microseconds / 1e6, p50: p50 / 1_000, p99: p99 / 1_000 };
}

const autocannon: LoadGenerator = {
  name: 'autocannon',
  run: measured(async (url, connections, seconds) => {
    const program = fileURLToPath(import.meta.resolve('autocannon'));
    const flags = [program, '-m', 'POST', '-c', `${connections}`, '-d', `${seconds}`, '-t', '30', '--json', url];
    const { stdout } = await run(process.execPath, flags, { timeout: (seconds + 60) * 1_000 });
    const { requests, duration, latency, non2xx, errors } = JSON.parse(stdout);
    const { p50, p99 } = latency;
    return { requests: requests.total, seconds: duration, p50, p99, refused: non2xx, broken: errors };
  }),
};
