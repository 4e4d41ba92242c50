/** Brings a database to the schema that the services expect. */
import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import pg from 'pg';

/** PostgreSQL 13 introduced xid8 and pg_snapshot, which delivery needs. */
const OLDEST_SERVER = 130_000;

/** The server is older than PostgreSQL 13. */
export class ServerTooOldError extends Error {
  override name = 'ServerTooOldError';
}

/**
 * Applies the migrations that the database lacks. When several processes run this at once, one applies them, and the
 * others wait and find nothing to do.
 *
 * @returns the names of the applied migrations, in order.
 * @throws {ServerTooOldError} on a server older than PostgreSQL 13, and changes nothing.
 */
export async function migrate(
  databaseUrl: string,
  options: { direction?: 'up' | 'down'; count?: number } = {},
): Promise<string[]> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: 'pg-signals migrate',
    connectionTimeoutMillis: 10_000,
  });
  client.on('error', () => {}); // a lost connection also rejects the query in flight
  await client.connect();
  try {
    await checkServerVersion(client);
    const applied = await runner({
      dbClient: client,
      dir: fileURLToPath(new URL('../migrations', import.meta.url)),
      migrationsTable: 'signals_migrations',
      direction: options.direction ?? 'up',
      ...(options.count === undefined ? {} : { count: options.count }),
      advisoryLockMode: 'wait',
      log: () => {},
    });
    return applied.map((migration) => migration.name);
  } finally {
    await client.end();
  }
}

async function checkServerVersion(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ number: number; version: string }>(
    `SELECT current_setting('server_version_num')::int AS number, current_setting('server_version') AS version`,
  );
  requireServer(rows[0]!.number, rows[0]!.version);
}

/** @throws {ServerTooOldError} for a `server_version_num` below that of PostgreSQL 13. */
export function requireServer(number: number, version: string): void {
  if (number >= OLDEST_SERVER) return;
  throw new ServerTooOldError(`PostgreSQL ${version} is too old: pg-signals needs PostgreSQL 13 or newer`);
}
