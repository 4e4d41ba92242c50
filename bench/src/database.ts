/** A PostgreSQL of the bench's own, with default settings, in a folder that is removed when it stops. */
import { mkdtempDisposable } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrate } from '@pg-signals/db/migrate';
import { type EmbeddedOptions, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import pg from 'pg';

export type Database = Awaited<ReturnType<typeof startDatabase>>;

export const temporaryFolder = () => mkdtempDisposable(path.join(tmpdir(), 'pg-signals-bench-'));

export async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  return client;
}

export async function startDatabase(options: Pick<EmbeddedOptions, 'settings' | 'env'> = {}) {
  await using stack = new AsyncDisposableStack();
  const { path: directory } = stack.use(await temporaryFolder());
  const server = await startEmbeddedPostgres({ directory, ...options });
  stack.defer(() => server.stop());
  await migrate(server.url);
  const client = await connect(server.url);
  stack.defer(() => client.end());
  const { rows } = await client.query<{ version: string }>("SELECT current_setting('server_version') AS version");
  const started = stack.move();
  return {
    url: server.url,
    /** Of the postmaster. */
    pid: server.pid,
    version: `PostgreSQL ${rows[0]!.version}`,
    /** A connection for the bench's own queries. */
    client,
    /** Empties `signals`, and writes a checkpoint, so that no turn pays for the one before. */
    async empty() {
      await client.query('TRUNCATE signals'); // the ids go on: consumers tell signals apart by them
      await client.query('CHECKPOINT');
    },
    /** True when no session but ours works on a query. */
    async isIdle(): Promise<boolean> {
      const others = `datname = current_database() AND pid <> pg_backend_pid() AND state = 'active'`;
      return (await client.query(`SELECT FROM pg_stat_activity WHERE ${others}`)).rowCount === 0;
    },
    async countSignals(): Promise<number> {
      return (await client.query('SELECT count(*)::int FROM signals')).rows[0].count;
    },
    /** Creates another database on the same server, with the same tables. Resolves with its URL. */
    async another(name: string): Promise<string> {
      await client.query(`CREATE DATABASE ${name}`);
      const url = new URL(`/${name}`, server.url).href;
      await migrate(url);
      return url;
    },
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}
