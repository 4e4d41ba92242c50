/** A backlog, handled by members that do nothing with it. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Database } from '../database.ts';
import type { Figures } from '../statistics.ts';
import type { Name } from './contestant.ts';
import { copyDatabase, startMembers, templateOf } from './turn.ts';

export const ROWS = Number(process.env.ROWS ?? 300_000);

/** The slow ones don't come to the end of it. */
const AT_MOST_MS = 2_000;

export async function measureBacklog(server: Database, name: Name, members: number): Promise<Figures> {
  const database = await copyDatabase(server, templateOf(name, ROWS));
  await using started = await startMembers(name, database.url, members);
  const before = await database.spent();
  await started.work();
  const until = performance.now() + AT_MOST_MS;
  let handled = await started.count();
  while (handled.count < ROWS && performance.now() < until) {
    await sleep(20);
    handled = await started.count();
  }
  const { count } = await started.stop();
  const after = await database.spent();
  return {
    'handled/s': handled.count / handled.seconds,
    'dead tuples each': (after.deadTuples - before.deadTuples) / count,
    'WAL bytes each': (after.walBytes - before.walBytes) / count,
    "server's CPU s/million": ((after.cpuSeconds - before.cpuSeconds) / count) * 1e6,
  };
}
