/** What each service may do in the database: exactly what its statements need. Grants and readiness are made of it. */
import pg from 'pg';
import type { Query } from './query.ts';
import { SIGNAL_COLUMNS } from './signal.ts';

/** The roles that `npm run migrate` makes. A service connects as one, or as a member of it. */
export type Role = 'signals_producer' | 'signals_consumer';

/** A right on something in the schema `public`. */
interface Right {
  readonly privilege: string;
  readonly on: 'TABLE' | 'SEQUENCE' | 'FUNCTION';
  readonly name: string;
  /** Where the right is one to columns. */
  readonly columns?: readonly string[];
}

/** A row with the `xid` of another transaction would be lost to consumers that catch up: no producer sets it. */
const INSERTED_COLUMNS = SIGNAL_COLUMNS.filter((column) => column !== 'xid');

const RIGHTS: Readonly<Record<Role, readonly Right[]>> = {
  signals_producer: [
    { privilege: 'INSERT', on: 'TABLE', name: 'signals', columns: INSERTED_COLUMNS },
    // An answer is the row as it was inserted, and for a known key the row of the first time.
    { privilege: 'SELECT', on: 'TABLE', name: 'signals', columns: SIGNAL_COLUMNS },
    { privilege: 'USAGE', on: 'SEQUENCE', name: 'signals_id_seq' },
    { privilege: 'INSERT', on: 'TABLE', name: 'signal_keys' },
    { privilege: 'SELECT', on: 'TABLE', name: 'signal_keys' },
    { privilege: 'DELETE', on: 'TABLE', name: 'signal_keys' },
    // No statement updates a key: `FOR UPDATE`, by which old ones are cleared, asks for it on one column.
    { privilege: 'UPDATE', on: 'TABLE', name: 'signal_keys', columns: ['created_at'] },
    { privilege: 'EXECUTE', on: 'FUNCTION', name: 'fn_insert_keyed_signals' },
  ],
  signals_consumer: [
    { privilege: 'SELECT', on: 'TABLE', name: 'signals', columns: SIGNAL_COLUMNS },
    ...allOn('signal_groups'),
    ...allOn('signal_group_members'),
    ...allOn('signal_retries'),
    { privilege: 'INSERT', on: 'TABLE', name: 'dead_letters' },
  ],
};

function allOn(name: string): Right[] {
  return ['SELECT', 'INSERT', 'UPDATE', 'DELETE'].map((privilege) => ({ privilege, on: 'TABLE', name }));
}

const USAGE = 'USAGE ON SCHEMA public';

/** A right as GRANT writes it: `UPDATE ("created_at") ON TABLE public.signal_keys`. */
function rightSql({ privilege, on, name, columns }: Right): string {
  const list = columns ? ` (${columns.map((column) => pg.escapeIdentifier(column)).join(', ')})` : '';
  return `${privilege}${list} ON ${on} public.${name}`;
}

/** All rights of a role, each as GRANT writes it. */
export const rightsOf = (role: Role): readonly string[] => [USAGE, ...RIGHTS[role].map(rightSql)];

/** True where `grantee` has the right, NULL where nothing has that name. */
function hasRightSql({ privilege, on, name, columns }: Right): string {
  const object = `${on === 'FUNCTION' ? 'to_regproc' : 'to_regclass'}('public.${name}')::oid`;
  if (!columns) return `has_${on.toLowerCase()}_privilege(grantee, ${object}, '${privilege}')`;
  const each = columns.map((column) => `has_column_privilege(grantee, ${object}, '${column}', '${privilege}')`);
  return each.join(' AND ');
}

/** Without USAGE on the schema, any name in it is an error. */
const rightsSql = (rights: readonly Right[]) => `
  SELECT
    has_schema_privilege(grantee, to_regnamespace('public')::oid, 'USAGE'),
    CASE WHEN has_schema_privilege(grantee, to_regnamespace('public')::oid, 'USAGE') THEN ARRAY[
      ${rights.map(hasRightSql).join(',\n')}
    ] END,
    EXISTS (
      SELECT
      FROM pg_trigger
      JOIN pg_class ON pg_class.oid = tgrelid
      WHERE relnamespace = to_regnamespace('public') AND relname = 'signals'
        AND tgname = 'new_signals' AND tgenabled IN ('O', 'A')
    )
  FROM coalesce($1::name, current_user) AS grantee`;

const UNDEFINED_COLUMN = '42703';

/** Something that the migrations make is missing, or was made by another program. The message says what. */
export class SchemaError extends Error {
  override name = 'SchemaError';
}

/**
 * The rights of a role that a user lacks, each as GRANT writes it.
 *
 * @param user by default the user of the connection.
 * @throws {SchemaError} where there is nothing to have a right on, and where the trigger does not fire.
 */
export async function missingRights(query: Query, role: Role, user?: string): Promise<readonly string[]> {
  const rights = RIGHTS[role];
  const [row] = await query<[boolean | null, (boolean | null)[] | null, boolean]>(rightsSql(rights), [user]).catch(
    (cause: Error & { code?: string }) => {
      throw cause.code === UNDEFINED_COLUMN ? new SchemaError(cause.message, { cause }) : cause;
    },
  );
  const [usage, granted, fires] = row!;
  if (usage === null) throw new SchemaError('the schema public is missing');
  if (!granted) return [USAGE];
  const absent = rights[granted.indexOf(null)];
  if (absent) throw new SchemaError(`the ${absent.on.toLowerCase()} public.${absent.name} is missing`);
  if (!fires) throw new SchemaError('the trigger new_signals of public.signals is missing or disabled');
  return rights.filter((_, index) => !granted[index]).map(rightSql);
}

/** @throws {Error} whose message says what the user of the connection lacks to work as this role, and how to get it. */
export async function requireRights(query: Query, role: Role): Promise<void> {
  const missing = await missingRights(query, role).catch((error) => {
    throw error instanceof SchemaError ? new SchemaError(`Run npm run migrate: ${error.message}.`) : error;
  });
  if (missing.length === 0) return;
  throw new Error(`The database user lacks rights: GRANT ${role} to it, or ${missing.join('; ')}.`);
}
