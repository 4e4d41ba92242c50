/**
 * One member as a process of its own: `node member.ts <contestant>`. It sends `ready`, then answers each order, of which
 * there is one at a time: `work` when it works, `count` with what it has handled, `stop` when it has stopped, with what it
 * had handled and when; then it ends.
 */
import { contestant, type Name } from './contestant.ts';

export type Order = 'work' | 'count' | 'stop';

export interface Handled {
  count: number;
  /** ms of the clock that all processes of a Linux machine share. */
  firstAt: number;
  lastAt: number;
  /** When each value came first, by value; `NaN` where it has not come here. */
  at: Float64Array;
}

/** As many values as a live measurement has; those of a backlog above it are counted only. */
const VALUES = 100_000;

const sharedClock = Number(process.hrtime.bigint()) / 1e6 - performance.now();
const { work } = await contestant(process.argv[2] as Name);
const at = new Float64Array(VALUES).fill(Number.NaN);
let count = 0;
let firstAt = 0;
let lastAt = 0;

function handle(value: number): void {
  lastAt = performance.now();
  if (count++ === 0) firstAt = lastAt;
  if (value < VALUES && Number.isNaN(at[value])) at[value] = lastAt + sharedClock;
}

const counted = (times = new Float64Array(0)): Handled => ({
  count,
  firstAt: firstAt + sharedClock,
  lastAt: lastAt + sharedClock,
  at: times,
});

let stop: () => Promise<unknown> = async () => {};
process.on('message', async (order: Order) => {
  if (order === 'work') stop = await work(process.env.DATABASE_URL!, handle);
  if (order === 'stop') await stop();
  if (order === 'stop') process.send!(counted(at), () => process.disconnect());
  else process.send!(order === 'work' ? 'working' : counted());
});
process.send!('ready');
