/** Reads from the environment which database to use: `DATABASE_URL`, or its parts. */
import { z } from 'zod';

const EXPECTED =
  'expected postgres://user:password@host:5432/database (or POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB)';

/**
 * A schema of the environment with `DATABASE_URL` and these variables. Where `DATABASE_URL` is not set it is composed of
 * `POSTGRES_USER`, `POSTGRES_PASSWORD`, `POSTGRES_DB`, `POSTGRES_HOST` (localhost) and `POSTGRES_PORT` (5432). Each part is
 * encoded, so that a password may hold any character.
 */
export function databaseSettings<T extends z.ZodRawShape>(variables: T) {
  return z.preprocess(
    composeDatabaseUrl,
    z.object({ ...variables, DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/, error: EXPECTED }) }),
  );
}

function composeDatabaseUrl(environment: unknown): unknown {
  const given = environment as Record<string, string | undefined>;
  const { POSTGRES_HOST: host = 'localhost', POSTGRES_PORT: port = '5432', POSTGRES_USER: user } = given;
  if (given.DATABASE_URL || !user) return given;
  const secret = given.POSTGRES_PASSWORD === undefined ? '' : `:${encodeURIComponent(given.POSTGRES_PASSWORD)}`;
  const database = encodeURIComponent(given.POSTGRES_DB ?? user);
  return { ...given, DATABASE_URL: `postgres://${encodeURIComponent(user)}${secret}@${host}:${port}/${database}` };
}
