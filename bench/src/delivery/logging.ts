/** Measures one consumer that logs every signal into a file: a whole process, as it is run in production. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Relay } from './relay.ts';
import type { Writer } from './writer.ts';

const ROOT = path.resolve(import.meta.dirname, '../../..');
/** Twice: as it comes, and waiting. */
const WARM_UP = 50_000;
const PER_COMMIT = 1_000;
/** Linux counts a process's time in hundredths of a second. */
const TICKS = 100;

export interface LoggingFigures {
  /** From the release of the first notification to the last line in the file. */
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** The consumer says that it went to read from the table. */
  readonly overflowed: boolean;
}

/** Our consumer, as `node consumer/src/main.ts` runs it. */
export const ours = [process.execPath, path.join(ROOT, 'consumer/src/main.ts')];

export interface LoggingOptions {
  writer: Writer;
  relay: Relay;
  signals: number;
  /** A directory for the log. */
  directory: string;
  signal: AbortSignal;
}

/** @throws {Error} when the file does not have one line for each signal. */
export async function measureLogging(
  [program, ...args]: string[],
  { writer, relay, signals, directory, signal }: LoggingOptions,
): Promise<LoggingFigures> {
  await writer.empty();
  const file = path.join(directory, 'consumer.log');
  const log = openSync(file, 'w+');
  const consumer = spawn(program!, args, {
    cwd: directory,
    env: { ...process.env, DATABASE_URL: relay.url, PORT: '0', LOG_FORMAT: 'text', LOG_LEVEL: 'info' },
    stdio: ['ignore', log, log],
    signal,
    killSignal: 'SIGKILL',
  });
  const ended = once(consumer, 'exit');
  await tailHas(log, 'Starting listener', signal);

  const backlog = async (count: number, last: string) => {
    await relay.fill(consumer, last, () => writer.insert(count, { last }));
    const [start, cpuBefore] = [performance.now(), cpuSeconds(consumer.pid!)];
    relay.release(consumer);
    await tailHas(log, last, signal);
    return { seconds: (performance.now() - start) / 1_000, cpuSeconds: cpuSeconds(consumer.pid!) - cpuBefore };
  };
  await writer.insert(WARM_UP, { perCommit: PER_COMMIT, last: 'last_paced' });
  await tailHas(log, 'last_paced', signal);
  await backlog(WARM_UP, 'last_of_warm_up');
  const figures = await backlog(signals, 'last_of_all');
  consumer.kill('SIGTERM');
  await ended;
  closeSync(log);
  const text = readFileSync(file, 'utf8');
  const lines = text.match(/notification received/g)?.length;
  const written = 2 * WARM_UP + signals;
  if (lines !== written) throw new Error(`${lines} lines for ${written} signals in ${file}`);
  return { ...figures, overflowed: text.includes('Callbacks do not keep up') };
}

/** Resolves when the last bytes of a file have a text; looks every two milliseconds. */
async function tailHas(file: number, text: string, signal: AbortSignal): Promise<void> {
  const tail = Buffer.alloc(1_024);
  for (;;) {
    const bytes = readSync(file, tail, 0, tail.length, Math.max(0, fstatSync(file).size - tail.length));
    if (tail.subarray(0, bytes).includes(text)) return;
    await sleep(2, undefined, { signal });
  }
}

/** What a process has used, user and system, all its threads. */
function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  const [user, system] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13);
  return (Number(user) + Number(system)) / TICKS;
}
