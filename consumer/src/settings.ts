/** The settings of a consumer, from the environment. */
import { databaseSettings } from '@pg-signals/db';
import { commonVariables, milliseconds, port, readSettings, wholeNumber } from '@pg-signals/runtime';
import type { z } from 'zod';

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8081),
  /** One connection listens; the others prove and read. */
  PG_POOL_MAX: wholeNumber(4, { min: 2 }),
  /** Time between two proofs that notifications arrive. */
  LISTEN_PROOF_INTERVAL_MS: milliseconds(5_000),
  /** Signals between two proofs. */
  LISTEN_PROOF_EVERY: wholeNumber(10_000),
  /** Longest wait for a proof, a connection or a small query. */
  LISTEN_PROOF_TIMEOUT_MS: milliseconds(5_000),
  /** Time between two reads of the table where LISTEN is unavailable. */
  LISTEN_POLL_MS: milliseconds(1_000),
  /** Time between two attempts to LISTEN there. */
  LISTEN_RETRY_MS: milliseconds(30_000),
  /** Notifications that wait at most; past that the table is read instead. */
  LISTEN_BUFFER_MAX: wholeNumber(10_000),
  /** Size of the largest signal that is delivered, as JSON; a larger one is skipped with a line in the log. */
  LISTEN_MAX_ROW_BYTES: wholeNumber(16 * 2 ** 20),
});

export type ConsumerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} naming every variable that is wrong. */
export const readConsumerSettings = (environment?: NodeJS.ProcessEnv): ConsumerSettings =>
  readSettings(schema, environment);
