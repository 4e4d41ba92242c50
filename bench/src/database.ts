/** A PostgreSQL of the bench's own, with the settings that it comes with, in a folder that goes when it ends. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrate } from '@pg-signals/db/migrate';
import { startEmbeddedPostgres } from '@pg-signals/local/embedded';
import pg from 'pg';

export interface BenchDatabase extends AsyncDisposable {
  readonly url: string;
  /** Of the postmaster. */
  readonly pid: number;
  /** A connection for what the bench itself asks. */
  readonly client: pg.Client;
  /** Makes another database on the same server, with the same tables, and resolves with its URL. */
  another(name: string): Promise<string>;
}

/** `env` is added to the server's environment. */
export async function startBenchDatabase(env: Record<string, string> = {}): Promise<BenchDatabase> {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
  const server = await startEmbeddedPostgres({ directory, env }).catch((error) => {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  });
  const client = new pg.Client({ connectionString: server.url });
  async function stop(): Promise<void> {
    await client.end().catch(() => {});
    await server.stop();
    rmSync(directory, { recursive: true, force: true });
  }
  try {
    await migrate(server.url);
    await client.connect();
  } catch (error) {
    await stop();
    throw error;
  }
  return {
    url: server.url,
    pid: server.pid,
    client,
    async another(name) {
      await client.query(`CREATE DATABASE ${pg.escapeIdentifier(name)}`);
      const url = new URL(server.url);
      url.pathname = `/${name}`;
      await migrate(url.href);
      return url.href;
    },
    [Symbol.asyncDispose]: stop,
  };
}
