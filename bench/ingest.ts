/** How many signals a second go in, beside the Go original, a straight port, COPY and other brokers; and whether all arrive. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { measureBrokers } from './src/brokerTable.ts';
import { measureBulk } from './src/bulkTable.ts';
import { type BenchDatabase, startBenchDatabase } from './src/database.ts';
import { measureIdle } from './src/idleTable.ts';
import { ingestReport } from './src/ingestReport.ts';
import type { IngestResults } from './src/ingestResults.ts';
import { findLoadGenerator } from './src/load.ts';
import { measureLoad } from './src/loadTable.ts';
import { buildPeer } from './src/peerProcess.ts';
import { describeRun } from './src/report.ts';

const ROUNDS = Number(process.env.ROUNDS ?? 5);
/** Whole seconds, as wrk takes them. */
const SECONDS = Number(process.env.SECONDS_PER_POINT ?? 2);
const IDLE_SAMPLES = 100 * SECONDS;
const BULK_ROWS = 50_000 * SECONDS;
const RESULTS = new URL('results/ingest.json', import.meta.url);

const generator = findLoadGenerator();
const go = buildPeer('go-original');
const slowFlush = buildPeer('slow-flush');
const everyTable = { rounds: ROUNDS, secondsPerPoint: SECONDS, generator, go };

const results = await onDatabase({}, async (database): Promise<Omit<IngestResults, 'slow'>> => {
  const run = `${await describeRun(database.url)}, ${generator.name}`;
  say('one signal a request');
  const load = await measureLoad(database, {
    ...everyTable,
    producers: ['ours', 'workers', 'naive', 'go', 'bare'],
    connections: [1, 16, 64, 256],
  });
  say('one signal at a time');
  const idle = await measureIdle(database, { rounds: ROUNDS, samples: IDLE_SAMPLES, go });
  say('many signals at once');
  const bulk = await measureBulk(database, { rounds: ROUNDS, rows: BULK_ROWS });
  say('published from a program');
  const brokers = await measureBrokers(database, { rounds: ROUNDS, secondsPerPoint: SECONDS, inFlight: 64 });
  return { run, load, idle, bulk, brokers };
});

const slow =
  slowFlush &&
  (await onDatabase({ LD_PRELOAD: slowFlush, SLOW_FLUSH_US: '2000' }, (database) => {
    say('one signal a request, on a slow disk');
    return measureLoad(database, {
      ...everyTable,
      producers: ['ours', 'twoInFlight', 'naive', 'go'],
      connections: [64, 256],
    });
  }));

const all: IngestResults = { ...results, ...(slow && { slow }) };
mkdirSync(new URL('.', RESULTS), { recursive: true });
writeFileSync(RESULTS, `${JSON.stringify(all, null, 2)}\n`);
console.log(`\n${ingestReport(all)}`);

async function onDatabase<T>(
  env: Record<string, string>,
  measure: (database: BenchDatabase) => Promise<T>,
): Promise<T> {
  await using database = await startBenchDatabase(env);
  return await measure(database);
}

/** On standard error: what is printed at the end is to be kept. */
function say(what: string): void {
  console.error(`${process.uptime().toFixed(0)} s: ${what}`);
}
