/** How fast members share a backlog and what comes live, and what that costs the server, beside job queues on PostgreSQL. */
import { readFileSync } from 'node:fs';
import { findPackageJSON } from 'node:module';
import { startDatabase } from './src/database.ts';
import { measureBacklog, ROWS } from './src/groups/backlog.ts';
import { type Name, SHARING } from './src/groups/contestant.ts';
import { CEILING_PER_COMMIT, measureCeiling, measureLatency, PER_COMMIT, RATE } from './src/groups/live.ts';
import { makeTemplates } from './src/groups/turn.ts';
import { keep, print, printRun } from './src/report.ts';
import { inTurns, medians, ROUNDS } from './src/statistics.ts';
import { aims, figure, table } from './src/table.ts';

// Autovacuum and checkpoints come when they come, and one in a turn would be that turn's alone.
const settings = { autovacuum: 'off', max_wal_size: '4GB', checkpoint_timeout: '1h', max_connections: '200' };
await using server = await startDatabase({ settings });
const peers = ['pg-boss', 'graphile-worker', 'bullmq'].map(
  (name) => `${name} ${JSON.parse(readFileSync(findPackageJSON(name, import.meta.url)!, 'utf8')).version}`,
);
printRun(server, `medians of ${ROUNDS} rounds`);
print(`Beside ${peers.join(', ')}`);
const all = ['broadcast', ...SHARING] as const;
await Promise.all(all.map((name) => makeTemplates(server, name, name === 'broadcast' ? 0 : ROWS)));

const backlogs: Record<string, [Name, number]> = {};
for (const name of SHARING) {
  const members = name === 'pg-signals' ? [1, 4, 16] : [1, 4];
  for (const count of members) backlogs[`${name}, ${count} member${count > 1 ? 's' : ''}`] = [name, count];
}
const backlog = medians(
  await inTurns(Object.keys(backlogs), ROUNDS, (turn) => measureBacklog(server, ...backlogs[turn]!)),
);
print(`A backlog of ${figure(ROWS)}, a handler that does nothing`, table('contestant', backlog));

const latency = medians(await inTurns(all, ROUNDS, (name) => measureLatency(server, name)));
print(
  `Live, ${figure(RATE)} signals a second in commits of ${PER_COMMIT}, 1 member: ms from the writer's answer to the handler`,
  table('contestant', latency),
);

const ceiling = medians(await inTurns(all, ROUNDS, (name) => measureCeiling(server, name)));
print(
  `Live, one writer as fast as it can in commits of ${CEILING_PER_COMMIT}, 4 members`,
  table('contestant', ceiling),
);

const [ours, four] = [backlog['pg-signals, 1 member'], backlog['pg-signals, 4 members']];
const [live, broadcast] = [latency['pg-signals']?.p50, latency.broadcast?.p50];
const [grouped, each] = [ceiling['pg-signals']?.['written/s'], ceiling.broadcast?.['written/s']];
print(
  aims([
    { atLeast: 150_000, what: 'of a backlog handled a second by one member', measured: ours?.['handled/s'] },
    { atLeast: 120_000, what: 'of a backlog handled a second by four members', measured: four?.['handled/s'] },
    {
      atMost: 1,
      what: 'dead tuples for 1,000 signals handled',
      measured: ours && 1_000 * ours['dead tuples each']!,
    },
    { atMost: 1, what: 'ms later than broadcast at p50', measured: live && live - broadcast! },
    {
      atLeast: 100,
      what: '% of what is written beside four broadcast consumers',
      measured: grouped && (100 * grouped) / each!,
    },
  ]),
);
keep('groups');
