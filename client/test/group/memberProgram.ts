/** A member in a process of its own, which can be killed and frozen: prints its runs and its log as lines of JSON. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool, type Signal } from '@pg-signals/db';
import pg from 'pg';
import { Group, type GroupOptions } from '../../src/index.ts';

export interface ProgramOptions {
  url: string;
  options: Partial<GroupOptions>;
  /** How long the handler takes, in ms. */
  handlerMs?: number;
  /** Writes each id into the table `handled`, in the transaction of `handleBatch`. */
  batch?: boolean;
  /** Stops itself (SIGSTOP), once, before or just after it sends a statement with this text for the n-th time (1). */
  freeze?: { at: string; when: 'before' | 'after'; nth?: number };
  /** Keeps the process busy for so long with this id, in ms, and ends it (SIGKILL) when it begins the other. */
  busy?: { id: number; ms: number; killAt: number };
  /** Ends the process when it begins this id. */
  poison?: number;
  /** Of the first runs, this share fails. */
  failing?: number;
  /** The first run of this id fails. */
  failAt?: number;
  /** With this id the handler never finishes. */
  endless?: number;
  /** Its own clock is wrong by this, in ms. */
  clockMs?: number;
}

/** A line of the program. */
export type Line =
  | { id: number; lane: number; epoch: number; attempt: number; at: number }
  | { done: number; at: number }
  | { log: string }
  | { lanes: number };

const given: ProgramOptions = JSON.parse(process.env.MEMBER!);
/** In ms, the same clock in all processes. */
const at = () => performance.timeOrigin + performance.now();
const print = (line: Line) => process.stdout.write(`${JSON.stringify(line)}\n`);

if (given.clockMs) {
  const now = Date.now;
  Date.now = () => now() + given.clockMs!;
}

const { freeze } = given;
let seen = 0;
const query = pg.Client.prototype.query as (...values: unknown[]) => unknown;
pg.Client.prototype.query = function (this: pg.Client, ...values: unknown[]) {
  const [first] = values as [string | { text: string }];
  const text = typeof first === 'string' ? first : first.text;
  const isHere = freeze && text?.includes(freeze.at) && ++seen === (freeze.nth ?? 1) ? freeze.when : undefined;
  if (isHere === 'before') process.kill(process.pid, 'SIGSTOP');
  const result = query.apply(this, values);
  if (isHere === 'after') process.kill(process.pid, 'SIGSTOP');
  return result;
} as typeof pg.Client.prototype.query;

const pool = createPool({ connectionString: given.url, application_name: 'member', max: 5 });
const write = (level: string) => (message: string, fields?: object) =>
  print({ log: `${level} ${message} ${JSON.stringify(fields ?? {})}` });
const options = {
  name: 'workers',
  checkpointMs: 100,
  leaseMs: 1_000,
  logger: { info: write('info'), warn: write('warn'), error: write('error') },
  observer: { lanes: (lanes: number) => print({ lanes }) },
  // A line that is only in this process's memory when it is killed was never printed: its row does not count as handled.
  flush: () => new Promise((resolve) => process.stdout.write('', resolve)),
  ...given.options,
};
const stop = new AbortController();
process.once('SIGTERM', () => stop.abort());

const each = (signal: Signal, { lane, epoch, attempt }: { lane: number; epoch: number; attempt: number }) => {
  const { busy, handlerMs } = given;
  print({ id: signal.id, lane, epoch, attempt, at: at() });
  if (signal.id === given.poison) process.exit(1);
  if (signal.id === busy?.killAt) process.kill(process.pid, 'SIGKILL');
  if (signal.id === busy?.id) for (const end = performance.now() + busy.ms; performance.now() < end; );
  const fails = Math.random() < (given.failing ?? 0) || signal.id === given.failAt;
  if (attempt === 1 && fails) throw new Error('the first time');
  if (signal.id === given.endless) return new Promise(() => {});
  if (!handlerMs) return undefined;
  return sleep(handlerMs).then(() => print({ done: signal.id, at: at() }));
};
const handleBatch = async (signals: readonly Signal[], tx: pg.PoolClient) => {
  await tx.query('INSERT INTO handled SELECT unnest($1::bigint[])', [signals.map(({ id }) => id)]);
};
await new Group(pool, options, given.batch ? { handleBatch } : each).start(stop.signal);
await pool.end();
