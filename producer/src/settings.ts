/** The producer's settings, from the environment. */
import { databaseSettings } from '@pg-signals/db';
import { commonVariables, milliseconds, port, readSettings, wholeNumber } from '@pg-signals/runtime';
import { z } from 'zod';
import { readTokens, TOKENS_EXPECTED } from './tokens.ts';

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8080),
  PG_POOL_MAX: wholeNumber(10),
  /** How long requests are still taken after a stop has begun and `/readyz` is 503, in ms. */
  SHUTDOWN_DRAIN_MS: wholeNumber(0, { min: 0, max: 2 ** 31 - 1 }),
  /** Longest body of a request, and longest line of NDJSON, in bytes. */
  INGEST_MAX_BODY: wholeNumber(1024 * 1024),
  /** Longest compressed stream of NDJSON, in bytes after decompression. */
  INGEST_MAX_DECOMPRESSED: wholeNumber(1024 * 1024 * 1024),
  /** Signals in one transaction. */
  INGEST_MAX_BATCH: wholeNumber(1_000),
  /** Transactions at the same time. */
  INGEST_MAX_IN_FLIGHT: wholeNumber(1),
  /** Signals that may wait for the database; past that requests are answered 503. */
  INGEST_MAX_QUEUE: wholeNumber(10_000),
  /** Bytes that may wait for the database. */
  INGEST_MAX_QUEUE_BYTES: wholeNumber(64 * 1024 * 1024),
  /** Bytes of requests in flight that a process holds; past that a request is answered 503. */
  INGEST_MAX_HELD_BYTES: wholeNumber(64 * 1024 * 1024),
  /** Connections of clients at a time; one more is closed at once. */
  INGEST_MAX_CONNECTIONS: wholeNumber(5_000),
  /** How long a request may wait for the database, in ms. */
  INGEST_TIMEOUT_MS: milliseconds(10_000),
  /** How long a client may take to send its headers, its body, or the next part of a stream of NDJSON, in ms. */
  INGEST_RECEIVE_TIMEOUT_MS: milliseconds(30_000),
  /** Hours for which idempotency keys are kept. */
  INGEST_KEY_HOURS: wholeNumber(24, { min: 24 }),
  /** Those who may send signals have one of these; where there are none, everyone may. */
  INGEST_TOKEN: z
    .string()
    .default('')
    .transform(readTokens)
    .refine((tokens) => tokens !== undefined, { error: TOKENS_EXPECTED }),
  /** Whether a request without a body inserts a random signal. */
  INGEST_RANDOM: z
    .enum(['true', 'false'])
    .default('true')
    .transform((value) => value === 'true'),
  /** Processes on the same port. */
  INGEST_WORKERS: wholeNumber(1),
});

export type ProducerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} that names every wrong variable. */
export const readProducerSettings = (environment?: NodeJS.ProcessEnv): ProducerSettings =>
  readSettings(schema, environment);
