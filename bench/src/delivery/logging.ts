/** Whole consumers that log every signal into a file: ours, and that of the Go original. And what a log line costs. */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Database, temporaryFolder } from '../database.ts';
import { Program } from '../process.ts';
import { print } from '../report.ts';
import { buildPeer, ROOT } from '../services.ts';
import { compare, inTurns, medians, ROUNDS } from '../statistics.ts';
import { type Aim, figure, table } from '../table.ts';
import { cpuSeconds } from '../usage.ts';
import type { LogWay } from './logLine.ts';
import type { Relay } from './relay.ts';
import { PER_COMMIT, SIGNALS, WARM_UP, write } from './writer.ts';

const [OURS, GO] = ['pg-signals, winston', 'Go original, log'];

export async function measureLogging({ client, empty }: Database, relay: Relay): Promise<Aim[]> {
  const go = await buildPeer('go-original');
  const ours = [process.execPath, path.join(ROOT, 'consumer/src/main.ts')];
  const commands: Record<string, string[]> = { [OURS]: ours, ...(go && { [GO]: [go, 'consumer'] }) };
  let overflowed = 0;

  const turns = await inTurns(Object.keys(commands), ROUNDS, async (name) => {
    await empty();
    await using folder = await temporaryFolder();
    const file = path.join(folder.path, 'consumer.log');
    const log = openSync(file, 'w+');
    const env = { DATABASE_URL: relay.url, PORT: '0', LOG_FORMAT: 'text', LOG_LEVEL: 'info' };
    const consumer = new Program(commands[name]!, { env, stdout: log, stderr: log });
    await tailHas(log, 'Starting listener', consumer);
    await write(client, WARM_UP, { perCommit: PER_COMMIT, last: 'last_paced' });
    await tailHas(log, 'last_paced', consumer);

    async function backlog(signals: number, last: string) {
      await relay.fill(consumer, last, () => write(client, signals, { last }));
      const [start, cpuBefore] = [performance.now(), cpuSeconds(consumer.pid)];
      relay.release(consumer);
      await tailHas(log, last, consumer);
      const seconds = (performance.now() - start) / 1_000;
      const cpu = cpuSeconds(consumer.pid) - cpuBefore;
      return { 'lines/s': signals / seconds, 'CPU s/million': (cpu / signals) * 1e6 };
    }
    await backlog(WARM_UP, 'last_of_warm_up');
    const figures = await backlog(SIGNALS, 'last_of_all');
    await consumer.stop();
    closeSync(log);
    const text = readFileSync(file, 'utf8');
    const [lines, written] = [text.match(/notification received/g)?.length, 2 * WARM_UP + SIGNALS];
    if (lines !== written) throw new Error(`${name}: ${lines} lines for ${written} signals`);
    if (text.includes('Callbacks do not keep up')) overflowed++;
    return figures;
  });
  if (go) compare(turns, 'lines/s', GO, '% of the Go original');
  const rows = medians(turns);
  print(
    `Logging: ${figure(SIGNALS)} lines into a file`,
    table('consumer', rows),
    `pg-signals read the table in ${overflowed} of ${ROUNDS} turns.`,
  );
  return [{ atLeast: 100, what: '% of the Go original when logging', measured: rows[OURS]?.['% of the Go original'] }];
}

/** Resolves when the end of a consumer's log has a text. Looks every 2 ms. */
async function tailHas(log: number, text: string, consumer: Program): Promise<void> {
  const signal = AbortSignal.any([consumer.ended, AbortSignal.timeout(120_000)]);
  const tail = Buffer.alloc(1_024);
  for (;;) {
    const bytes = readSync(log, tail, 0, tail.length, Math.max(0, fstatSync(log).size - tail.length));
    if (tail.subarray(0, bytes).includes(text)) return;
    await sleep(2, undefined, { signal });
  }
}

/** A line of the log alone, written to /dev/null. */
export async function measureLogLine(): Promise<void> {
  const ways: LogWay[] = ['winston, Console transport', 'winston, Stream transport', 'createLogger', 'no logger'];
  const file = path.join(import.meta.dirname, 'logLine.ts');
  const turns = await inTurns(ways, ROUNDS, async (way) => {
    const program = new Program([process.execPath, file, way, `${SIGNALS}`]);
    return { 'CPU µs a line': await program.message<number>() };
  });
  print('A line of the log alone, written to /dev/null', table('way', medians(turns)));
}
