/** From POST to a consumer's callback, beside what the server itself needs; memory at rest; how long `make run` takes. */
import { setTimeout as sleep } from 'node:timers/promises';
import { startDatabase } from './src/database.ts';
import { measureMakeRun } from './src/latency/makeRun.ts';
import { openFloor, openPath } from './src/latency/samples.ts';
import { Program } from './src/process.ts';
import { keep, print, printRun } from './src/report.ts';
import { startService } from './src/services.ts';
import { inTurns, medians, roundsOr, samples } from './src/statistics.ts';
import { table } from './src/table.ts';
import { memoryMB } from './src/usage.ts';

const ROUNDS = roundsOr(7);
const SAMPLES = 300;
const STARTS = Math.min(5, ROUNDS);
/** From the last work of a process until its memory is read. */
const IDLE_MS = 5_000;

await using database = await startDatabase();
printRun(database);
const bareNode = new Program([process.execPath, '-e', 'setInterval(() => {}, 1e6)']);
await using producer = await startService('producer/src/main.ts', database.url);
const plainConsumer = await startService('consumer/src/main.ts', database.url);
const atStart = await memoryOf(bareNode, producer, plainConsumer);
await Promise.all([bareNode.stop(), plainConsumer.stop()]);

await using consumer = await startService('bench/src/latency/recordingConsumer.ts', database.url);
await using floor = await openFloor(await database.another('bench_floor'));
using path = openPath(producer, consumer);
const KINDS = {
  "POST /ingest to the consumer's callback": path.toCallback,
  'POST /ingest to its answer': path.toAnswer,
  'one HTTP round trip: GET /healthz of the same producer': path.roundTrip,
  'floor: pg_notify, raw connection to raw connection': floor.notify,
  'floor with the row: INSERT, raw connection to raw connection': floor.insert,
};
const kinds = Object.keys(KINDS) as (keyof typeof KINDS)[];
const times = medians(await inTurns(kinds, ROUNDS, (kind) => samples(SAMPLES, KINDS[kind]), 1));
const [callback, , roundTrip, notify, insert] = kinds.map((kind) => times[kind]?.p50 ?? 0) as [
  number,
  number,
  number,
  number,
  number,
];
print(
  `One at a time; ${ROUNDS} rounds of ${SAMPLES} of each kind in turn, medians of the rounds`,
  table('ms', {
    ...times,
    'POST to callback beyond one round trip and pg_notify': { p50: callback - roundTrip - notify },
    'POST to callback beyond one round trip and INSERT': { p50: callback - roundTrip - insert },
  }),
);

const afterwards = await memoryOf(producer, consumer);
const [START, END] = ['after its start', `after ${2 * (ROUNDS + 1) * SAMPLES} signals`];
print(
  'Resident memory of an idle process',
  table('MB', {
    'node alone': { [START]: atStart[0] },
    producer: { [START]: atStart[1], [END]: afterwards[0] },
    consumer: { [START]: atStart[2], [END]: afterwards[1] },
  }),
);
print(
  `make run on an installed clone; ${STARTS} starts of each kind in turn, medians`,
  table('s from the command', await measureMakeRun(STARTS)),
);
keep('latency');

async function memoryOf(...programs: Program[]): Promise<number[]> {
  await sleep(IDLE_MS);
  return programs.map(({ pid }) => memoryMB(pid, 'VmRSS'));
}
