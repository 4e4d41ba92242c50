/** How many signals a second go in, beside the Go original, a straight port, COPY and other brokers; and whether all arrive. */
import { startDatabase } from './src/database.ts';
import { measureBrokers } from './src/ingest/brokers.ts';
import { ALONE, ATTACHED, measureBulk, NDJSON } from './src/ingest/bulk.ts';
import { generatorName } from './src/ingest/generator.ts';
import { measureIdle } from './src/ingest/idle.ts';
import { type Load, measureLoad } from './src/ingest/load.ts';
import { keep, print, printRun } from './src/report.ts';
import { buildPeer } from './src/services.ts';
import type { Figures } from './src/statistics.ts';
import { aims, figure } from './src/table.ts';

const OURS = 'pg-signals, createPublisher';
const [REDIS, NATS] = ['Redis Streams, appendfsync always', 'NATS JetStream, file storage'];
const [NAIVE, GO, BARE] = ['express, one INSERT a request', 'Go original', 'node:http, no database'];

await using database = await startDatabase();
printRun(database, generatorName);
const loadTitle = 'One signal a request, two consumers attached';
const load = await measureLoad(
  database,
  loadTitle,
  [1, 16, 64, 256],
  ['ours', 'ours, INGEST_WORKERS=2', NAIVE, GO, BARE],
);
const slow = await measureSlowDisk();
const idle = await measureIdle(database);
const bulk = await measureBulk(database);
const brokers = await measureBrokers(database);

const peaks = {
  'with one signal a request': load.peakMB,
  'with NDJSON': bulk.peakMB,
  'on the slow disk': slow?.peakMB,
};
const memory = Object.entries(peaks).flatMap(([when, MB]) => (MB ? `${figure(Math.round(MB))} ${when}` : []));
print(`The most memory that our producer ever took (one process), in MB: ${memory.join(', ')}`);

const times = (rows: Record<string, Figures> | undefined, column: string, peer: string, ours = 'ours') => {
  const [measured, theirs] = [rows?.[ours]?.[column], rows?.[peer]?.[column]];
  return measured && theirs && measured / theirs;
};
const [at1, , at64, at256] = Object.values(load.connections);
const [slow64, slow256] = Object.values(slow?.connections ?? {});
const ndjson = bulk.rows[NDJSON];
print(
  aims([
    { atLeast: 7, what: 'x the Go original at 64 connections', measured: times(at64, 'requests/s', GO) },
    { atLeast: 9, what: 'x the Go original at 256 connections', measured: times(at256, 'requests/s', GO) },
    { atLeast: 0.8, what: 'x the Go original at 1 connection', measured: times(at1, 'requests/s', GO) },
    { atLeast: 0.5, what: 'x node:http without a database at 64', measured: times(at64, 'requests/s', BARE) },
    {
      atMost: at64?.[GO]?.['p50 ms'] ?? 0,
      what: "ms p99 at 64, the Go original's p50 there",
      measured: at64?.[GO] && at64.ours?.['p99 ms'],
    },
    { atLeast: 20, what: 'x the Go original at 64, 2 ms a flush', measured: times(slow64, 'requests/s', GO) },
    { atLeast: 50, what: 'x the Go original at 256, 2 ms a flush', measured: times(slow256, 'requests/s', GO) },
    { atMost: 1.2, what: "x the Go original's p50, one signal at a time", measured: times(idle, 'p50', GO) },
    { atMost: 2, what: 'ms p99, one signal at a time', measured: idle.ours?.p99 },
    {
      atLeast: 150_000,
      what: `rows/s of NDJSON with ${ATTACHED} (${figure(ndjson?.[ALONE])} while ${ALONE})`,
      measured: ndjson?.[ATTACHED],
    },
    { atLeast: 1, what: `x ${REDIS}, with createPublisher`, measured: times(brokers, 'published/s', REDIS, OURS) },
    { atLeast: 1, what: `x ${NATS}, with createPublisher`, measured: times(brokers, 'published/s', NATS, OURS) },
    {
      atMost: 200,
      what: 'MB of memory in the producer throughout',
      measured: Math.max(load.peakMB, bulk.peakMB, slow?.peakMB ?? 0),
    },
  ]),
);
keep('ingest', { load, slow, idle, bulk, brokers });

async function measureSlowDisk(): Promise<Load | undefined> {
  const preload = await buildPeer('slow-flush');
  if (!preload) return undefined;
  await using slowDatabase = await startDatabase({ env: { LD_PRELOAD: preload, SLOW_FLUSH_US: '2000' } });
  const title = 'The same on a disk that takes 2 ms longer a flush';
  return await measureLoad(slowDatabase, title, [64, 256], ['ours', 'ours, INGEST_MAX_IN_FLIGHT=2', NAIVE, GO]);
}
