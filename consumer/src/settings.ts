/** What the environment says to a consumer. */
import { databaseSettings } from '@pg-signals/db';
import { commonVariables, port, readSettings } from '@pg-signals/runtime';
import { z } from 'zod';

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8081),
  /** One connection listens; the others read what it missed. */
  PG_POOL_MAX: z.coerce.number().int().min(2).default(4),
});

export type ConsumerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} naming every variable that is wrong. */
export const readConsumerSettings = (environment?: NodeJS.ProcessEnv): ConsumerSettings =>
  readSettings(schema, environment);
