/** A database and members for one turn, with what they cost the server. */
import path from 'node:path';
import type pg from 'pg';
import { connect, type Database } from '../database.ts';
import { Program, retry } from '../process.ts';
import { cpuSeconds } from '../usage.ts';
import { contestant, type Name } from './contestant.ts';
import type { Handled, Order } from './member.ts';

/**
 * A copy of `template`, in which nothing was handled yet, for one turn. The server copies through its log, so every page
 * is newer than the last checkpoint, and no change of one has to log the whole page.
 */
export async function copyDatabase(server: Database, template: string) {
  const name = 'turn';
  await server.client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`); // that is a checkpoint too
  await server.client.query(`CREATE DATABASE ${name} TEMPLATE "${template}"`);
  const url = new URL(`/${name}`, server.url).href;
  return {
    url,
    /** What the server has spent on this database until now, when no one else is connected with it. */
    async spent() {
      await untilAlone(server.client, name);
      await using stack = new AsyncDisposableStack();
      const client = stack.adopt(await connect(url), (it) => it.end());
      const { rows } = await client.query<{ dead: number; wal: number }>(`
        SELECT coalesce(sum(n_tup_upd + n_tup_del), 0)::float8 AS dead,
               (pg_current_wal_insert_lsn() - '0/0')::float8 AS wal
        FROM pg_stat_user_tables`);
      return { cpuSeconds: cpuSeconds(server.pid), deadTuples: rows[0]!.dead, walBytes: rows[0]!.wal };
    },
  };
}

/** Sessions tell the statistics what they did before they are gone from the list. */
const untilAlone = (client: pg.Client, name: string) =>
  retry(async () => {
    const { rowCount } = await client.query('SELECT FROM pg_stat_activity WHERE datname = $1', [name]);
    if (rowCount) throw new Error(`${rowCount} sessions are still connected with ${name}`);
  });

export const templateOf = (name: Name, rows: number): string => `${name.toLowerCase().replace(/\W/g, '_')}_${rows}`;

/** Makes databases to copy: one with the contestant's tables, and one with a backlog of `rows` in them, if there are any. */
export async function makeTemplates(server: Database, name: Name, rows: number): Promise<void> {
  const { prepare, connectWriter } = await contestant(name);
  const [empty, full] = [templateOf(name, 0), templateOf(name, rows)];
  const url = (database: string) => new URL(`/${database}`, server.url).href;
  await using stack = new AsyncDisposableStack();
  const client = stack.adopt(await connect(server.url), (it) => it.end());
  await client.query(`CREATE DATABASE "${empty}"`);
  await prepare(url(empty));
  await untilAlone(client, empty);
  if (rows === 0) return;
  await client.query(`CREATE DATABASE "${full}" TEMPLATE "${empty}"`);
  const writer = await connectWriter(url(full));
  const BATCH = 5_000;
  for (let first = 0; first < rows; first += BATCH) await writer.add(range(first, Math.min(rows, first + BATCH)));
  await writer.close();
  const filled = await connect(url(full));
  await filled.query('VACUUM ANALYZE');
  await filled.end();
  await untilAlone(client, full);
}

export const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, i) => from + i);

/** Processes that share the work. */
export async function startMembers(name: Name, url: string, howMany: number) {
  await using stack = new AsyncDisposableStack();
  const file = path.join(import.meta.dirname, 'member.ts');
  const programs = Array.from({ length: howMany }, () =>
    stack.use(new Program([process.execPath, file, name], { env: { DATABASE_URL: url } })),
  );
  await Promise.all(programs.map((program) => program.message())); // they are loaded: from here on it is their work
  const ask = <T>(order: Order) => Promise.all(programs.map((program) => program.ask<T>(order)));
  const started = stack.move();
  return {
    work: () => ask('work'),
    count: async () => sum(await ask<Handled>('count')),
    /** Lets them end cleanly. */
    stop: async () => sum(await ask<Handled>('stop')),
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

/** What all handled, and from the first signal of any member to the last. */
function sum(all: readonly Handled[]) {
  const busy = all.filter(({ count }) => count > 0);
  const [first, last] = [Math.min(...busy.map((m) => m.firstAt)), Math.max(...busy.map((m) => m.lastAt))];
  const count = all.reduce((total, member) => total + member.count, 0);
  return { count, seconds: (last - first) / 1_000, at: all[0]!.at };
}
