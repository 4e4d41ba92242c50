/** What the environment says to a producer. */
import { databaseSettings } from '@pg-signals/db';
import { commonVariables, port, readSettings } from '@pg-signals/runtime';
import { z } from 'zod';

/** A whole number from 1. */
const count = (byDefault: number) => z.coerce.number().int().min(1).default(byDefault);

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8080),
  PG_POOL_MAX: z.coerce.number().int().min(1).default(10),
  /** Longest body of a request, and longest line of NDJSON, in bytes. */
  INGEST_MAX_BODY: count(1024 * 1024),
  /** Bytes that a packed stream of NDJSON may unpack to. */
  INGEST_MAX_UNPACKED: count(1024 * 1024 * 1024),
  /** Signals in one transaction. */
  INGEST_MAX_BATCH: count(1_000),
  /** Transactions at the same time. */
  INGEST_MAX_IN_FLIGHT: count(1),
  /** Signals that may wait; past it requests are answered 503. */
  INGEST_MAX_QUEUE: count(10_000),
  /** The same in bytes. */
  INGEST_MAX_QUEUE_BYTES: count(64 * 1024 * 1024),
  /** How long a request may wait for the database, in ms. */
  INGEST_TIMEOUT_MS: count(10_000),
  /** How long a client may take to send its headers, its body, or the next part of a stream of NDJSON, in ms. */
  INGEST_RECEIVE_TIMEOUT_MS: count(30_000),
  /** Hours for which idempotency keys are kept. */
  INGEST_KEY_HOURS: z.coerce.number().min(24).default(24),
  /** Processes on the same port. */
  INGEST_WORKERS: count(1),
  /** False leads POST /ingest through express: for comparison. */
  INGEST_HOT_PATH: z
    .enum(['true', 'false'])
    .default('true')
    .transform((text) => text === 'true'),
});

export type ProducerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} naming every variable that is wrong. */
export const readProducerSettings = (environment?: NodeJS.ProcessEnv): ProducerSettings =>
  readSettings(schema, environment);
