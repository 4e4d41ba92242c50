/** Consumers that count: notifications that wait, rows that are inserted, and rows that were missed. */
import { readFileSync } from 'node:fs';
import { findPackageJSON } from 'node:module';
import path from 'node:path';
import type { Database } from '../database.ts';
import { Program } from '../process.ts';
import { print } from '../report.ts';
import { compare, inTurns, medians, ROUNDS } from '../statistics.ts';
import { type Aim, figure, table } from '../table.ts';
import type { Counted, Way } from './contestant.ts';
import type { Relay } from './relay.ts';
import { insert, PER_COMMIT, SIGNALS, WARM_UP, write } from './writer.ts';

/** The rows that each reader catches up. */
const ROWS = Number(process.env.ROWS ?? 300_000);
const WHILE_INSERTED = 'CPU s/million while inserted';

/** First all notifications wait, then they come as the rows are inserted. */
export async function measureCounting({ client, empty }: Database, relay: Relay): Promise<Aim[]> {
  const sources = { notify: 0, catch_up: 0 };
  const libraries = ['pg-signals', 'pg', 'pg-listen', 'postgres'] as const;
  const turns = await inTurns(libraries, ROUNDS, async (library) => {
    await empty();
    await using consumer = await startContestant(library, relay.url);
    const paced = (signals: number) =>
      count(consumer, signals, () => write(client, signals, { perCommit: PER_COMMIT }));
    const backlog = (signals: number, last: string) =>
      count(consumer, signals, async () => {
        await relay.fill(consumer, last, () => write(client, signals, { last }));
        relay.release(consumer);
      });
    await paced(WARM_UP);
    await backlog(WARM_UP, 'last_of_warm_up');
    const [waited, inserted] = [await backlog(SIGNALS, 'last_of_all'), await paced(SIGNALS / 2)];
    sources.notify += waited.sources.notify + inserted.sources.notify;
    sources.catch_up += waited.sources.catch_up + inserted.sources.catch_up;
    return {
      'signals/s': SIGNALS / waited.seconds,
      'CPU s/million': (waited.cpuSeconds / SIGNALS) * 1e6,
      [WHILE_INSERTED]: (inserted.cpuSeconds / (SIGNALS / 2)) * 1e6,
    };
  });
  compare(turns, 'signals/s', 'pg', 'signals/s, % of pg');
  compare(turns, WHILE_INSERTED, 'pg', 'while inserted, % of pg');
  const rows = medians(turns);
  print(
    `Counting: ${figure(SIGNALS)} notifications that wait, JSON parsed; beside ${libraries.slice(1).map(versioned).join(', ')}`,
    table('consumer', rows),
    `pg-signals delivered ${figure(sources.notify)} by notification, ${figure(sources.catch_up)} from the table.`,
  );
  const [speed, cpu] = [rows['pg-signals']?.['signals/s, % of pg'], rows['pg-signals']?.['while inserted, % of pg']];
  return [
    { atLeast: 100, what: '% of plain pg when receiving', measured: speed },
    { atMost: 120, what: "% of plain pg's CPU time while rows are inserted", measured: cpu },
  ];
}

/** Rows without notifications, read after the listening backend was killed; beside one SELECT of the same rows. */
export async function measureCatchUp({ url, client, empty }: Database): Promise<Aim[]> {
  const turns = await inTurns(['pg-signals', 'SELECT'], ROUNDS, async (reader) => {
    await using consumer = await startContestant(reader, url);
    async function missed(rows: number): Promise<Counted> {
      await empty();
      await client.query('SET session_replication_role = replica'); // triggers do not fire
      await insert(client, rows, 'test_signal');
      await client.query('SET session_replication_role = origin');
      // Only a listener that has lost its connection looks for rows that it was not notified of.
      const kill = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = 'pg-signals' AND query LIKE 'LISTEN%'`;
      return await count(consumer, rows, () => reader === 'SELECT' || client.query(kill));
    }
    await missed(WARM_UP);
    const { seconds, secondsInAll, cpuSeconds } = await missed(ROWS);
    const live = reader === 'SELECT' ? {} : { 'rows/s from the first on': ROWS / seconds };
    return { 'rows/s': ROWS / secondsInAll, 'CPU s/million': (cpuSeconds / ROWS) * 1e6, ...live };
  });
  compare(turns, 'rows/s', 'SELECT', '% of SELECT');
  const rows = medians(turns);
  print(`Catching up: ${figure(ROWS)} rows missed, beside one SELECT with pg`, table('reader', rows));
  return [{ atLeast: 60, what: '% of a plain SELECT when catching up', measured: rows['pg-signals']?.['% of SELECT'] }];
}

async function startContestant(way: Way, databaseUrl: string): Promise<Program> {
  const file = path.join(import.meta.dirname, 'contestant.ts');
  const contestant = new Program([process.execPath, file, way], { env: { DATABASE_URL: databaseUrl } });
  await contestant.message();
  return contestant;
}

/** Has a contestant count its next `signals` signals, which `cause` makes it receive. */
async function count(contestant: Program, signals: number, cause: () => unknown): Promise<Counted> {
  await contestant.ask(signals);
  const [counted] = await Promise.all([contestant.message<Counted>(), cause()]);
  return counted;
}

/** A library's name with the version that is installed. */
function versioned(library: string): string {
  return `${library} ${JSON.parse(readFileSync(findPackageJSON(library, import.meta.url)!, 'utf8')).version}`;
}
