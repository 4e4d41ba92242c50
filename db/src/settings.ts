/** Reads from the environment which database to use: `DATABASE_URL`, or its parts. */
import { readFileSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { z } from 'zod';

const EXPECTED =
  'expected postgres://user:password@host:5432/database (or POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB)';
const ENCODED = 'expected @ / : ? # and % of the user and the password to be percent-encoded, such as %40 for @';
const HOST_EXPECTED = 'expected a host name, an address without brackets, or the folder of a socket (/run/postgresql)';

/** A variable with the path of a file. Its value is the text of that file, without the end of the last line. */
export const textOfFile = z.string().transform((file, context) => {
  try {
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '');
  } catch {
    context.addIssue({ code: 'custom', message: 'expected a file that can be read', input: file });
    return z.NEVER;
  }
});

const parts = {
  POSTGRES_HOST: z
    .string()
    .refine((host) => /^(\/.+|[\w.-]+)$/.test(host) || isIPv6(host), { error: HOST_EXPECTED })
    .default('localhost'),
  POSTGRES_PORT: z
    .string()
    .refine((port) => /^\d{1,5}$/.test(port) && Number(port) > 0 && Number(port) < 65_536, {
      error: 'expected a port from 1 to 65535',
    })
    .default('5432'),
  // pg decodes neither of them in the path of a URL.
  POSTGRES_DB: z
    .string()
    .regex(/^[^?#]*$/, { error: 'expected a name without ? and #' })
    .optional(),
  POSTGRES_PASSWORD_FILE: textOfFile.optional(),
};

/** libpq's variables for TLS, and the parameters of the URL that they become. pg itself knows only the first. */
const TLS = {
  PGSSLMODE: 'sslmode',
  PGSSLROOTCERT: 'sslrootcert',
  PGSSLCERT: 'sslcert',
  PGSSLKEY: 'sslkey',
} as const;

const tls = {
  // Not prefer and allow, which in libpq go on without TLS: pg takes the first for require, and the second for disable.
  PGSSLMODE: z
    .enum(['disable', 'no-verify', 'require', 'verify-ca', 'verify-full'], {
      error: 'expected disable, no-verify, require, verify-ca or verify-full',
    })
    .optional(),
  PGSSLROOTCERT: textOfFile.optional(),
  PGSSLCERT: textOfFile.optional(),
  PGSSLKEY: textOfFile.optional(),
};

/**
 * A schema of the environment with `DATABASE_URL` and these variables. Where `DATABASE_URL` is not set it is composed of
 * `POSTGRES_USER`, `POSTGRES_PASSWORD` (or the text of the file `POSTGRES_PASSWORD_FILE`), `POSTGRES_DB`, `POSTGRES_HOST`
 * (localhost; a folder is that of a Unix socket) and `POSTGRES_PORT` (5432). Each part is encoded, so that a password may
 * hold any character. Every part that is wrong is an issue of its own.
 *
 * `PGSSLMODE`, `PGSSLROOTCERT`, `PGSSLCERT` and `PGSSLKEY` become parameters of the URL, where that has none of their own.
 */
export function databaseSettings<T extends z.ZodRawShape>(variables: T) {
  return z.preprocess(
    withDatabaseUrl,
    z.object({
      ...variables,
      ...parts,
      ...tls,
      DATABASE_URL: z
        .string({ error: EXPECTED })
        .refine((url) => /^postgres(ql)?:\/\//.test(url) && URL.canParse(url), { error: EXPECTED, abort: true })
        .refine(isEncoded, { error: ENCODED }),
    }),
  );
}

/**
 * False where a password that is not percent-encoded is taken for something else: of `postgres://me:1/2@host/db` the host
 * would be `me`, its port 1, and the rest of the password a part of the database's name, which errors repeat.
 */
function isEncoded(text: string): boolean {
  const { username, password, pathname, search, hash } = new URL(text);
  try {
    decodeURIComponent(username + password + pathname);
  } catch {
    return false;
  }
  if (username !== '') return true;
  return !(pathname + hash).includes('@') && !/^\?[^=]*@/.test(search);
}

function withDatabaseUrl(environment: unknown): unknown {
  const given: Record<string, string | undefined> = { ...(environment as NodeJS.ProcessEnv) };
  for (const name of Object.keys(given)) if (given[name] === '') delete given[name];
  // libpq takes a URL whose host is only in ?host=, and so does pg; the standard's parser does not.
  const url = given.DATABASE_URL?.replace(/^(postgres(?:ql)?:\/\/[^/?#]*@)(?=\/)/, '$1localhost') || composed(given);
  return url === undefined ? given : { ...given, DATABASE_URL: withTls(url, given) };
}

function withTls(text: string, given: Record<string, string | undefined>): string {
  if (!URL.canParse(text)) return text;
  const url = new URL(text);
  if (url.searchParams.get('host')?.startsWith('/') || url.hostname.startsWith('%2F')) return text; // a Unix socket
  const before = url.search;
  for (const [variable, parameter] of Object.entries(TLS)) {
    const value = given[variable];
    if (value !== undefined && !url.searchParams.has(parameter)) url.searchParams.set(parameter, value);
  }
  // To pg they are the same now, with a warning that they will get the weaker meaning that they have in libpq.
  const isSameToPg = /^(require|verify-ca)$/.test(url.searchParams.get('sslmode') ?? '');
  if (isSameToPg && !url.searchParams.has('uselibpqcompat')) url.searchParams.set('sslmode', 'verify-full');
  return url.search === before ? text : url.href;
}

function composed(given: Record<string, string | undefined>): string | undefined {
  const user = given.POSTGRES_USER;
  if (!user) return undefined;
  // A part that is wrong is reported as itself: for the URL its default does.
  const part = (name: keyof typeof parts) =>
    parts[name].safeParse(given[name]).data ?? parts[name].safeParse(undefined).data;
  const host = part('POSTGRES_HOST')!;
  const password = given.POSTGRES_PASSWORD ?? part('POSTGRES_PASSWORD_FILE');
  const url = new URL(`postgres://${isIPv6(host) ? `[${host}]` : encodeURIComponent(host)}`);
  url.port = part('POSTGRES_PORT')!;
  return `postgres://${encodeURIComponent(user)}${password === undefined ? '' : `:${encodeURIComponent(password)}`}@${url.host}/${encodeURI(given.POSTGRES_DB ?? user)}`;
}
