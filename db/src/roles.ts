/** Makes the roles that the services connect as, with the rights that each needs and no other. */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { backoff } from './backoff.ts';
import { connected } from './connected.ts';
import type { Query } from './query.ts';
import { missingRights, type Role, rightsOf } from './rights.ts';

export const ROLES: readonly Role[] = ['signals_producer', 'signals_consumer'];

const INSUFFICIENT_PRIVILEGE = '42501';
const DUPLICATE_OBJECT = '42710';
/** A role of that name is being created; `tuple concurrently updated`. */
const CHANGED_BY_ANOTHER = ['23505', 'XX000'];

/**
 * Creates the roles where they are missing, and gives them their rights. One whose password is given can log in with it from
 * then on; one without is for GRANT to a user who can. Roles belong to the whole cluster: the databases on it share them.
 *
 * @returns the statements that this user may not run, for one who may: none where the roles are complete, each password
 *   included. They show no password.
 * @throws {SchemaError} where the database is not migrated.
 */
export function createRoles(databaseUrl: string, passwords: Partial<Record<Role, string>> = {}): Promise<string[]> {
  return connected(databaseUrl, async (_client, query) => {
    const left: string[] = [];
    for (const role of ROLES) {
      const password = passwords[role] ?? '';
      const logsIn = () =>
        connected(Object.assign(new URL(databaseUrl), { username: role, password }).href, () => true);
      left.push(...(await createRole(query, role, password, logsIn)));
    }
    return left;
  });
}

async function createRole(
  query: Query,
  role: Role,
  password: string,
  logsIn: () => Promise<boolean>,
): Promise<string[]> {
  const left: string[] = [];
  const exists = async () => (await query('SELECT FROM pg_roles WHERE rolname = $1', [role])).length > 0;
  const there = await exists();
  if (!there || password) {
    const command = `${there ? 'ALTER' : 'CREATE'} ROLE ${role}`;
    const login = (secret: string) => (!password ? command : `${command} LOGIN PASSWORD ${secret}`);
    const secret = !password ? '' : pg.escapeLiteral(scramSecret(password));
    const done = (await allowed(query, login(secret))) || (there && (await logsIn().catch(() => false)));
    if (!done) left.push(`${login("'…'")};`);
  }
  const [database] = await query<[string]>('SELECT current_database()');
  const connect = `CONNECT ON DATABASE ${pg.escapeIdentifier(database![0])}`;
  const rights = [connect, ...rightsOf(role)];
  const granted = await exists();
  if (granted) for (const right of rights) await allowed(query, `GRANT ${right} TO ${role}`);
  const missing = granted ? await missingOf(query, role, connect) : rights;
  return [...left, ...missing.map((right) => `GRANT ${right} TO ${role};`)];
}

/** PUBLIC may have what this user may not grant: then nothing is missing. */
async function missingOf(query: Query, role: Role, connect: string): Promise<string[]> {
  const [row] = await query<[boolean]>(`SELECT has_database_privilege($1, current_database(), 'CONNECT')`, [role]);
  return [...(row![0] ? [] : [connect]), ...(await missingRights(query, role, role))];
}

/**
 * Runs a statement; false where the user may not. It is repeated where another process changes the same role or table at this
 * moment: PostgreSQL lets both go ahead and refuses the later one, with no code of its own.
 */
async function allowed(query: Query, sql: string): Promise<boolean> {
  for (let attempt = 1; ; attempt++) {
    try {
      await query(sql);
      return true;
    } catch (error) {
      const { code = '' } = error as { code?: string };
      if (code === DUPLICATE_OBJECT) return true; // created by another process just now
      if (code === INSUFFICIENT_PRIVILEGE) return false;
      if (!CHANGED_BY_ANOTHER.includes(code) || attempt === 20) throw error;
      await sleep(backoff(attempt, { firstMs: 10, longestMs: 200 }));
    }
  }
}

/**
 * A password as PostgreSQL stores it (RFC 5803), so that neither the statement nor the server's log has it in clear.
 *
 * @param password in ASCII: others would have to be normalised as the server does it.
 */
function scramSecret(password: string): string {
  const iterations = 4_096; // PostgreSQL's own default
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, iterations, 32, 'sha256');
  const key = (name: string) => createHmac('sha256', salted).update(name).digest();
  const storedKey = createHash('sha256').update(key('Client Key')).digest('base64');
  return `SCRAM-SHA-256$${iterations}:${salt.toString('base64')}$${storedKey}:${key('Server Key').toString('base64')}`;
}
