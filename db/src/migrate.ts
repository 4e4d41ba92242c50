/** Brings a database to the schema that the services expect. */
import { fileURLToPath } from 'node:url';
import { runner } from 'node-pg-migrate';
import { connected } from './connected.ts';
import type { Query } from './query.ts';
import { missingRights, SchemaError } from './rights.ts';

/** PostgreSQL 13 introduced xid8 and pg_snapshot, which delivery needs. */
const OLDEST_SERVER = 130_000;

/** The server is older than PostgreSQL 13. */
export class ServerTooOldError extends Error {
  override name = 'ServerTooOldError';
}

/**
 * Applies the migrations that the database lacks. When several processes run this at once, one applies them, and the
 * others wait and find nothing to do. Everything is in the schema `public`, whatever the user's `search_path` is.
 *
 * @returns the names of the applied migrations, in order.
 * @throws {ServerTooOldError} on a server older than PostgreSQL 13, and changes nothing.
 * @throws {SchemaError} where something is missing although its migration was applied before.
 */
export function migrate(
  databaseUrl: string,
  options: { direction?: 'up' | 'down'; count?: number } = {},
): Promise<string[]> {
  return connected(databaseUrl, async (client, query) => {
    await checkServerVersion(query);
    const { direction = 'up' } = options;
    const applied = await runner({
      dbClient: client,
      dir: fileURLToPath(new URL('../migrations', import.meta.url)),
      schema: 'public',
      migrationsTable: 'signals_migrations',
      direction,
      ...(options.count === undefined ? {} : { count: options.count }),
      advisoryLockMode: 'wait',
      log: () => {},
    });
    if (direction === 'up' && options.count === undefined) await checkSchema(query);
    return applied.map((migration) => migration.name);
  });
}

/** What `/readyz` of a service misses, this must miss too: otherwise each would send its reader to the other. */
async function checkSchema(query: Query): Promise<void> {
  await missingRights(query, 'signals_producer').catch((error) => {
    if (!(error instanceof SchemaError)) throw error;
    throw new SchemaError(
      `${error.message}, although public.signals_migrations says that it was made: it was dropped or moved since. ` +
        'Put it back as db/migrations has it.',
    );
  });
}

async function checkServerVersion(query: Query): Promise<void> {
  const [row] = await query<[number, string]>(
    `SELECT current_setting('server_version_num')::int, current_setting('server_version')`,
  );
  requireServer(...row!);
}

/** @throws {ServerTooOldError} for a `server_version_num` below that of PostgreSQL 13. */
export function requireServer(number: number, version: string): void {
  if (number >= OLDEST_SERVER) return;
  throw new ServerTooOldError(`PostgreSQL ${version} is too old: pg-signals needs PostgreSQL 13 or newer`);
}
