/** From POST to a consumer's callback, beside what the server itself needs; memory at rest; how long `make run` takes. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { migrate } from '@pg-signals/db/migrate';
import { startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { openFloor } from './src/floor.ts';
import { createIngest } from './src/ingest.ts';
import { measureMakeRun, type StartTimes } from './src/makeRun.ts';
import { bareNodeMB, residentMB } from './src/memory.ts';
import { describeRun, table } from './src/report.ts';
import { startServiceChild } from './src/serviceChild.ts';
import { median, quantile } from './src/statistics.ts';

const ROUNDS = 7;
const SAMPLES = 300;
/** Between two samples, so that each finds services with nothing to do. */
const PAUSE_MS = 3;
const IDLE_MS = 5_000;
const STARTS = 5;

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
const server = await startEmbeddedPostgres({ directory });
try {
  console.log(`${await describeRun(server.url)}\n`);
  await migrate(server.url);
  const bare = await bareNodeMB(IDLE_MS);

  const producer = await startServiceChild('producer/src/main.ts', server.url);
  const consumer = await startServiceChild('consumer/src/main.ts', server.url);
  await sleep(IDLE_MS);
  const started = [producer, consumer].map(({ process }) => residentMB(process.pid!));
  await consumer.stop();

  const recording = await startServiceChild('bench/src/recordingConsumer.ts', server.url);
  await printLatency(producer.url, recording.process);
  await sleep(IDLE_MS);
  const used = [producer, recording].map(({ process }) => residentMB(process.pid!));
  const signals = 2 * (ROUNDS + 1) * SAMPLES;
  console.log('\nResident memory of a process that has nothing to do\n');
  console.log(
    table([
      ['MB', 'after its start', `after ${signals} signals`],
      ['node alone', bare.toFixed(0)],
      ...['producer', 'consumer'].map((name, i) => [name, started[i]!.toFixed(0), used[i]!.toFixed(0)]),
    ]),
  );
  await producer.stop();
  await recording.stop();
} finally {
  await server.stop();
  rmSync(directory, { recursive: true, force: true });
}
await printStarts();

async function printLatency(...[producerUrl, consumer]: Parameters<typeof createIngest>): Promise<void> {
  const ingest = createIngest(producerUrl, consumer);
  const floor = await openFloor(server.url);
  const { callback, answer, roundTrip, notify, insert } = await inTurn({
    callback: ingest.toCallback,
    answer: ingest.toAnswer,
    roundTrip: ingest.roundTrip,
    notify: floor.notify,
    insert: floor.insert,
  });
  ingest.close();
  await floor.close();
  const row = (name: string, { p50, p99 }: Quantiles) => [name, p50.toFixed(2), p99.toFixed(2)];
  console.log(`One at a time; ${ROUNDS} rounds of ${SAMPLES} of each kind in turn, medians of the rounds\n`);
  console.log(
    table([
      ['ms', 'p50', 'p99'],
      row("POST /ingest to the consumer's callback", callback),
      row('POST /ingest to its answer', answer),
      row('one HTTP round trip: GET /healthz of the same producer', roundTrip),
      row('floor: pg_notify, raw connection to raw connection', notify),
      row('floor with the row: INSERT, raw connection to raw connection', insert),
      ['POST to callback beyond one round trip and pg_notify', (callback.p50 - roundTrip.p50 - notify.p50).toFixed(2)],
      ['POST to callback beyond one round trip and INSERT', (callback.p50 - roundTrip.p50 - insert.p50).toFixed(2)],
    ]),
  );
}

interface Quantiles {
  p50: number;
  p99: number;
}

/** Takes every kind in each round, so that a slow spell of the machine meets all of them; the first round is not counted. */
async function inTurn<K extends string>(kinds: Record<K, () => Promise<number>>): Promise<Record<K, Quantiles>> {
  const names = Object.keys(kinds) as K[];
  const rounds = Object.fromEntries(names.map((name) => [name, [] as Quantiles[]])) as Record<K, Quantiles[]>;
  for (let round = 0; round <= ROUNDS; round++) {
    for (const name of names) {
      const values: number[] = [];
      for (let i = 0; i < SAMPLES; i++) {
        values.push(await kinds[name]());
        await sleep(PAUSE_MS);
      }
      if (round > 0) rounds[name].push({ p50: median(values), p99: quantile(values, 0.99) });
    }
  }
  const medians = names.map((name) => [
    name,
    { p50: median(rounds[name].map(({ p50 }) => p50)), p99: median(rounds[name].map(({ p99 }) => p99)) },
  ]);
  return Object.fromEntries(medians) as Record<K, Quantiles>;
}

async function printStarts(): Promise<void> {
  const { fresh, existing } = await measureMakeRun(STARTS);
  const row = (name: string, times: StartTimes[]) => {
    const first = times.map(({ firstSignal }) => firstSignal);
    const ready = median(times.map((time) => time.ready));
    return [name, ready.toFixed(1), median(first).toFixed(1), Math.max(...first).toFixed(1)];
  };
  console.log(`\nmake run on an installed clone; ${STARTS} starts of each kind in turn, medians\n`);
  console.log(
    table([
      ['s from the command', 'ready', 'first signal seen', 'the slowest of these'],
      row('without data: makes the cluster', fresh),
      row('with data', existing),
    ]),
  );
}
