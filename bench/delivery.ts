/**
 * How fast one consumer takes signals in, beside the libraries that people would use instead: `node bench/delivery.ts`.
 *
 * - *Counting.* Each consumer is a process of its own whose callback counts. A server is slower than any of them, so the
 *   notifications wait when the clock starts: a relay holds back what PostgreSQL sends, a transaction of `SIGNALS` rows,
 *   while the consumer's process is stopped, then lets go. The bytes are the server's own, in its order; the server has nothing left to
 *   do, so that the two do not compete for the cores. The clock runs in the consumer, from the first signal to the last.
 *   Since the server is idle then, few proofs fall into that stretch. `while inserted` has them at their full rate: the
 *   rows come as they are committed, a thousand at a time, and what counts is the consumer's CPU time.
 * - *Logging.* The whole consumer (`consumer/src/main.ts`: text, level info, into a file) and that of the Go original,
 *   where `PEERS_DIR` has it. Fed in the same way; the clock runs from the release to the last line in the file.
 * - *Catching up.* Rows without notifications, then the listening backend is killed: from the attempt to connect, which
 *   LISTEN, the proof and the log's way to the disk come after, to the last row. Beside it one SELECT of the same rows.
 *
 * All in turns (A B C D A B C D …), a fresh process each turn, warmed up; the figures are medians over `ROUNDS` (5).
 */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrate } from '@pg-signals/db/migrate';
import { startEmbeddedPostgres } from '@pg-signals/local/embedded';
import type { Way } from './src/delivery/contestant.ts';
import { type LiveFigures, measureCatchUp, measureLive } from './src/delivery/counting.ts';
import { machine, median, percent, table, whole } from './src/delivery/figures.ts';
import type { LineWay } from './src/delivery/lines.ts';
import { type LoggingFigures, measureLogging, ours } from './src/delivery/logging.ts';
import { startRelay } from './src/delivery/relay.ts';
import { Writer } from './src/delivery/writer.ts';

const ROUNDS = Number(process.env.ROUNDS ?? 5);
const SIGNALS = Number(process.env.SIGNALS ?? 200_000);
const ROWS = Number(process.env.ROWS ?? 300_000);
const DEADLINE_MS = 600_000;
const GO = path.join(process.env.PEERS_DIR ?? '/var/tmp/pg-signals-peers', 'go-original');

/** Measures each in its turn, `ROUNDS` times over. */
async function inTurns<Name extends string, Figures>(
  names: readonly Name[],
  measure: (name: Name) => Promise<Figures>,
): Promise<Map<Name, Figures[]>> {
  const figures = new Map<Name, Figures[]>(names.map((name) => [name, []]));
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of names) figures.get(name)!.push(await measure(name));
  }
  return figures;
}

function version(library: string): string {
  const file = createRequire(import.meta.url)
    .resolve(library)
    .split(`node_modules/${library}/`)[0]!;
  return JSON.parse(readFileSync(`${file}node_modules/${library}/package.json`, 'utf8')).version;
}

async function counting(measure: (way: Way) => Promise<LiveFigures>): Promise<void> {
  const libraries = ['pg-signals', 'pg', 'pg-listen', 'postgres'] as const;
  const figures = await inTurns(libraries, measure);
  const of = (way: Way, value: (figures: LiveFigures) => number) => median(figures.get(way as 'pg')!.map(value));
  const rate = (way: Way) => of(way, ({ backlog }) => SIGNALS / backlog.seconds);
  const cpu = (way: Way) => of(way, ({ backlog }) => (backlog.cpuSeconds / SIGNALS) * 1e6);
  const pacedCpu = (way: Way) => of(way, ({ paced }) => (paced.cpuSeconds / (SIGNALS / 2)) * 1e6);
  // The machine's mood changes between rounds, so a ratio is that of two turns of one round.
  const ratio = (way: Way) =>
    median(
      figures.get(way as 'pg')!.map(({ backlog }, at) => figures.get('pg')![at]!.backlog.seconds / backlog.seconds),
    );
  console.log(`\nCounting: ${whole(SIGNALS)} notifications that wait, JSON parsed\n`);
  console.log(
    table(
      ['consumer', 'signals/s', 'beside pg', 'CPU s/million', 'CPU s/million while inserted'],
      libraries.map((way) => [
        way === 'pg-signals' ? way : `${way} ${version(way)}`,
        whole(rate(way)),
        percent(ratio(way)),
        cpu(way).toFixed(2),
        pacedCpu(way).toFixed(2),
      ]),
    ),
  );
  const sources = figures.get('pg-signals')!.flatMap(({ backlog, paced }) => [backlog.sources, paced.sources]);
  const came = (source: 'notify' | 'catch_up') => whole(sources.reduce((sum, each) => sum + each[source], 0));
  console.log(`pg-signals handed on ${came('notify')} by notification, ${came('catch_up')} from the table.`);
}

async function logging(measure: (command: string[]) => Promise<LoggingFigures>): Promise<void> {
  const commands: Record<string, string[]> = { 'pg-signals, winston': ours };
  if (existsSync(GO)) commands['Go original, log'] = [GO, 'consumer'];
  const figures = await inTurns(Object.keys(commands), (name) => measure(commands[name]!));
  console.log(`\nLogging: ${whole(SIGNALS)} lines into a file\n`);
  console.log(
    table(
      ['consumer', 'lines/s', 'CPU s/million'],
      [...figures].map(([name, turns]) => [
        name,
        whole(median(turns.map(({ seconds }) => SIGNALS / seconds))),
        median(turns.map(({ cpuSeconds }) => (cpuSeconds / SIGNALS) * 1e6)).toFixed(2),
      ]),
    ),
  );
  const overflowed = [...figures.values()].flat().filter((turn) => turn.overflowed).length;
  console.log(`pg-signals went to the table in ${overflowed} of ${ROUNDS} turns.`);
  if (!existsSync(GO)) console.log(`The Go original was not measured: there is no ${GO}.`);
}

/** µs of CPU a line. */
async function measureLine(way: LineWay, signal: AbortSignal): Promise<number> {
  const child = fork(path.join(import.meta.dirname, 'src/delivery/lines.ts'), [way, String(SIGNALS)], {
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  const [[microseconds]] = await Promise.all([once(child, 'message', { signal }), once(child, 'exit', { signal })]);
  return microseconds;
}

async function lines(signal: AbortSignal): Promise<void> {
  const ways: LineWay[] = ['winston, Console transport', 'winston, Stream transport', 'createLogger', 'no logger'];
  const figures = await inTurns(ways, (way) => measureLine(way, signal));
  console.log(`\nA line of the log alone, written to /dev/null\n`);
  console.log(
    table(
      ['way', 'CPU µs a line'],
      [...figures].map(([way, turns]) => [way, median(turns).toFixed(2)]),
    ),
  );
}

async function catchingUp(measure: (way: 'pg-signals' | 'SELECT') => ReturnType<typeof measureCatchUp>): Promise<void> {
  const figures = await inTurns(['pg-signals', 'SELECT'], measure);
  const [our, plain] = [figures.get('pg-signals')!, figures.get('SELECT')!];
  const ratio = median(our.map(({ secondsInAll }, at) => plain[at]!.secondsInAll / secondsInAll));
  console.log(`\nCatching up: ${whole(ROWS)} rows missed\n`);
  console.log(
    table(
      ['reader', 'rows/s', 'beside SELECT', 'rows/s from the first on', 'CPU s/million'],
      [...figures].map(([way, turns]) => [
        way === 'SELECT' ? `SELECT with pg ${version('pg')}` : way,
        whole(median(turns.map(({ secondsInAll }) => ROWS / secondsInAll))),
        percent(way === 'SELECT' ? 1 : ratio),
        way === 'SELECT' ? '' : whole(median(turns.map(({ seconds }) => ROWS / seconds))),
        median(turns.map(({ cpuSeconds }) => (cpuSeconds / ROWS) * 1e6)).toFixed(2),
      ]),
    ),
  );
}

async function run(signal: AbortSignal): Promise<void> {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
  const server = await startEmbeddedPostgres({ directory, settings: { autovacuum: 'off' } });
  try {
    await migrate(server.url);
    const writer = await Writer.connect(server.url);
    const relay = await startRelay(server.url);
    console.log(`PostgreSQL ${await writer.serverVersion()}, Node ${process.versions.node}; ${machine()}`);
    console.log(`Medians of ${ROUNDS} rounds.`);
    await counting((way) => measureLive(way, { writer, relay, signals: SIGNALS, signal }));
    await logging((command) => measureLogging(command, { writer, relay, signals: SIGNALS, directory, signal }));
    await lines(signal);
    await catchingUp((way) => measureCatchUp(way, { writer, url: server.url, rows: ROWS, signal }));
    relay.close();
    await writer.end();
  } finally {
    await server.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}

const interrupted = new AbortController();
process.once('SIGINT', () => interrupted.abort(new Error('interrupted')));
await run(AbortSignal.any([interrupted.signal, AbortSignal.timeout(DEADLINE_MS)]));
process.exit(); // a child that an error left behind ends when it finds the channel to us closed
