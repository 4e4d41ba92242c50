/**
 * Databases for tests. As vitest's global setup it starts one real PostgreSQL for the whole run, or uses the one at
 * `DATABASE_URL`; each test file then clones its own database from a migrated template.
 */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Role } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import { createRoles, ROLES } from '@pg-signals/db/roles';
import pg from 'pg';
import { startEmbeddedPostgres } from './embedded.ts';

/** The variables by which the setup passes the server and the template to the test processes. */
const SERVER = 'PG_SIGNALS_TEST_SERVER';
const TEMPLATE = 'PG_SIGNALS_TEST_TEMPLATE';

/** Called by vitest before all tests; what it returns is called after them. */
export async function setup(): Promise<() => Promise<void>> {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-test-'));
  const given = process.env.DATABASE_URL;
  // No test crashes the machine, so a flush to the disk would prove nothing.
  const server = given ? undefined : await startEmbeddedPostgres({ directory, settings: { fsync: 'off' } });
  const url = given ?? server!.url;
  const template = `pg_signals_template_${randomBytes(4).toString('hex')}`;
  await onServer(url, `CREATE DATABASE ${template}`);
  await migrate(withDatabase(url, template));
  const rolesBefore = await existingRoles(url);
  await createRoles(withDatabase(url, template));
  process.env[SERVER] = url;
  process.env[TEMPLATE] = template;
  return async () => {
    await onServer(url, `DROP DATABASE ${template} WITH (FORCE)`);
    if (given) for (const role of ROLES) if (!rolesBefore.includes(role)) await onServer(url, `DROP ROLE ${role}`);
    await server?.stop();
    rmSync(directory, { recursive: true, force: true });
  };
}

export interface TestDatabase {
  readonly url: string;
  drop(): Promise<void>;
}

/** A new database with the schema; an empty one with `migrated: false`. */
export async function createTestDatabase({ migrated = true } = {}): Promise<TestDatabase> {
  const server = process.env[SERVER];
  if (!server) throw new Error('createTestDatabase works only under vitest: local/src/testing.ts is its global setup');
  const name = `pg_signals_test_${randomBytes(6).toString('hex')}`;
  await onServer(server, `CREATE DATABASE ${name} TEMPLATE ${migrated ? process.env[TEMPLATE] : 'template0'}`);
  return {
    url: withDatabase(server, name),
    async drop() {
      await onServer(server, `DROP DATABASE ${name} WITH (FORCE)`);
    },
  };
}

/** The same database for a session that may do what this role may, and no more. */
export function asRole(url: string, role: Role): string {
  const changed = new URL(url);
  changed.searchParams.set('options', `-c role=${role}`);
  return changed.href;
}

function withDatabase(url: string, name: string): string {
  const changed = new URL(url);
  changed.pathname = `/${name}`;
  return changed.href;
}

async function existingRoles(url: string): Promise<string[]> {
  const { rows } = await onServer(url, 'SELECT rolname FROM pg_roles');
  return rows.map(({ rolname }) => rolname);
}

async function onServer(url: string, sql: string): Promise<pg.QueryResult> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return await client.query(sql);
  } finally {
    await client.end();
  }
}
