/** The process of one member of a group: it takes part, and writes each run of its handler to a file. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool, type Signal } from '@pg-signals/db';
import { type BatchHandler, Group, type Handler } from 'pg-signals';
import type { ToConsumer } from '../consumers/messages.ts';
import { CHECKPOINT_MS, CHECKPOINT_ROWS, drawn, GROUP_KINDS, type GroupName, LEASE_MS } from './groupKinds.ts';
import { RunLogWriter } from './runLog.ts';
import { SPOILS, type Spoil, type SpoilName } from './spoiled.ts';
import { addUp } from './totals.ts';

const [name = '', applicationName = '', logFile = '', spoilName = ''] = process.argv.slice(2);
const { concurrency, order, retries, failures, handlerMs } = GROUP_KINDS[name as GroupName];
const spoil: Spoil = SPOILS[spoilName as SpoilName] ?? {};
const runs = new RunLogWriter(logFile);
let held: Promise<void> | undefined;

const each: Handler<Signal> = async ({ id }, { lane, epoch, attempt }) => {
  runs.write('begun', id, lane, epoch, attempt);
  await held;
  if (handlerMs > 0) await sleep((drawn(id) * handlerMs) / 1_000);
  const fails = attempt <= failures(id);
  runs.write(fails ? 'failed' : 'done', id, lane, epoch, attempt);
  if (fails) throw new Error(`row ${id} fails at attempt ${attempt}`);
};

const batch: BatchHandler<Signal> = async (signals, tx) => {
  await held;
  await addUp(signals, tx);
};

const write = (level: string) => (message: string, fields?: object) => {
  process.stdout.write(`${level} ${message} ${JSON.stringify(fields ?? {})}\n`);
};
const logger = {
  info: (message: string, fields?: object) => {
    if (message === 'Left the group') runs.write('left', 0, 0, (fields as { epoch: number }).epoch, 0);
    write('info')(message, fields);
  },
  warn: write('warn'),
  error: write('error'),
};

const pool = createPool({ connectionString: process.env.DATABASE_URL!, application_name: applicationName, max: 4 });
const group = new Group(
  pool,
  {
    name,
    from: 'earliest',
    ...(order && { order }),
    lanes: 16,
    concurrency,
    retries,
    leaseMs: LEASE_MS,
    checkpointMs: CHECKPOINT_MS,
    checkpointRows: CHECKPOINT_ROWS,
    proofIntervalMs: 500,
    proofTimeoutMs: 500,
    pollMs: 200,
    retryMs: 500,
    bufferMax: 1_000,
    logger,
    ...(spoil.options as object),
  },
  name === 'totals' ? { handleBatch: spoil.batch?.(batch, pool) ?? batch } : (spoil.each?.(each) ?? each),
);

const stop = new AbortController();
process.on('message', (message: ToConsumer) => {
  if (message.type === 'hold') held = sleep(message.ms);
  if (message.type === 'freeze') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, message.ms);
  if (message.type === 'stop') stop.abort();
});
// Ctrl-C reaches the whole process group; this process ends with the checker.
process.on('SIGINT', () => {});
process.on('disconnect', () => process.exit(1));

await group.start(stop.signal);
await pool.end();
process.exit(0);
