/** Signals that come while members work: at a given rate, and as fast as they can be written. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Database } from '../database.ts';
import { retry } from '../process.ts';
import { type Figures, quantile } from '../statistics.ts';
import { contestant, type Name } from './contestant.ts';
import { copyDatabase, range, startMembers, templateOf } from './turn.ts';

export const RATE = 1_000;
export const PER_COMMIT = 10;
export const CEILING_PER_COMMIT = 100;
const WARM_UP_MS = 500;
const MEASURED_MS = 1_500;

/** ms of the clock that the members use. */
const now = (): number => Number(process.hrtime.bigint()) / 1e6;

/** One member, {@link RATE} signals a second: from the writer's knowing of the commit to the handler, in ms. */
export async function measureLatency(server: Database, name: Name): Promise<Figures> {
  await using stack = new AsyncDisposableStack();
  const { members, writer } = await begin(stack, server, name, 1);
  const committedAt: number[] = [];
  const start = now();
  while (now() < start + WARM_UP_MS + MEASURED_MS) {
    const values = range(committedAt.length, committedAt.length + PER_COMMIT);
    await writer.add(values);
    committedAt.push(...values.map(now));
    await sleep(Math.max(0, start + (committedAt.length / RATE) * 1_000 - now()));
  }
  await retry(async () => {
    const { count } = await members.count();
    if (count < committedAt.length) throw new Error(`${name} handled ${count} of ${committedAt.length} signals`);
  });
  const { at } = await members.stop();
  const late = committedAt.map((committed, value) => at[value]! - committed);
  const measured = late.slice((WARM_UP_MS / 1_000) * RATE);
  return { p50: quantile(measured, 0.5), p99: quantile(measured, 0.99) };
}

/** Four members, and a writer that waits for nothing but its commits. */
export async function measureCeiling(server: Database, name: Name): Promise<Figures> {
  await using stack = new AsyncDisposableStack();
  const { members, writer } = await begin(stack, server, name, 4);
  let written = 0;
  async function write(ms: number): Promise<void> {
    const until = now() + ms;
    while (now() < until) {
      await writer.add(range(written, written + CEILING_PER_COMMIT));
      written += CEILING_PER_COMMIT;
    }
  }
  const state = async () => ({ handled: (await members.count()).count, written, at: now() });
  await write(WARM_UP_MS);
  const before = await state();
  await write(MEASURED_MS);
  const after = await state();
  await members.stop();
  const seconds = (after.at - before.at) / 1_000;
  return {
    'handled/s': (after.handled - before.handled) / seconds,
    'written/s': (after.written - before.written) / seconds,
  };
}

/** Members that have begun, on a database in which nothing was written, and its writer. `stack` ends them. */
async function begin(stack: AsyncDisposableStack, server: Database, name: Name, howMany: number) {
  const { url } = await copyDatabase(server, templateOf(name, 0));
  const members = stack.use(await startMembers(name, url, howMany));
  const writer = await (await contestant(name)).connectWriter(url);
  stack.defer(async () => void (await writer.close()));
  await members.work();
  return { members, writer };
}
