/** What the environment says to a producer. */
import { databaseSettings } from '@pg-signals/db';
import { commonVariables, port, readSettings } from '@pg-signals/runtime';
import { z } from 'zod';

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8080),
  PG_POOL_MAX: z.coerce.number().int().min(1).default(10),
  /** Longest body of a request, in bytes. */
  INGEST_MAX_BODY: z.coerce
    .number()
    .int()
    .min(1)
    .default(1024 * 1024),
});

export type ProducerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} naming every variable that is wrong. */
export const readProducerSettings = (environment?: NodeJS.ProcessEnv): ProducerSettings =>
  readSettings(schema, environment);
