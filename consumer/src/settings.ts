/** What the environment says to a consumer. */
import { databaseSettings } from '@pg-signals/db';
import { commonVariables, port, readSettings } from '@pg-signals/runtime';
import { z } from 'zod';

const ms = (byDefault: number) => z.coerce.number().int().min(1).default(byDefault);

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8081),
  /** One connection listens; the others prove and read. */
  PG_POOL_MAX: z.coerce.number().int().min(2).default(4),
  /** Time between two proofs that notifications arrive. */
  LISTEN_PROOF_INTERVAL_MS: ms(5_000),
  /** Signals between two proofs. */
  LISTEN_PROOF_EVERY: z.coerce.number().int().min(1).default(10_000),
  /** Longest wait for a proof, a connection or a small query. */
  LISTEN_PROOF_TIMEOUT_MS: ms(5_000),
  /** Time between two reads of the table where LISTEN is not to be had. */
  LISTEN_POLL_MS: ms(1_000),
  /** Time between two attempts to LISTEN there. */
  LISTEN_RETRY_MS: ms(30_000),
  /** Notifications that wait at the most; past that the table is read instead. */
  LISTEN_BUFFER_MAX: z.coerce.number().int().min(1).default(10_000),
});

export type ConsumerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} naming every variable that is wrong. */
export const readConsumerSettings = (environment?: NodeJS.ProcessEnv): ConsumerSettings =>
  readSettings(schema, environment);
