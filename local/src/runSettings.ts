/** The settings of `make run`, from the environment and `.env`. */
import path from 'node:path';
import { readConsumerSettings } from '@pg-signals/consumer';
import { readProducerSettings } from '@pg-signals/producer';
import { port, readEnvFile, readSettings, SettingsError, wholeNumber } from '@pg-signals/runtime';
import { z } from 'zod';

const schema = z.object({ CONSUMERS: wholeNumber(2, { max: 1_000 }), POSTGRES_PORT: port(5432) });

export interface RunSettings {
  /** A server to use; where undefined, `make run` starts one. */
  databaseUrl: string | undefined;
  /** The address on which the services listen. */
  host: string;
  /** The producer's port; 0 takes a free one. */
  port: number;
  /** The port of the PostgreSQL to start; where it is taken, a free one is used. */
  postgresPort: number;
  consumers: number;
  /** `CONSUMER_SLOT` of the consumers: `auto`, as docker compose has it too, unless it is set, to nothing for example. */
  consumerSlot: string;
  shutdownTimeoutMs: number;
  /** Connections that all services together open at most. */
  connections: number;
}

/**
 * Checks the settings of the services too, so that a wrong value is reported once and before anything starts.
 * `DATABASE_URL` counts only where the environment itself sets it: the one in `.env` is for services started by hand.
 *
 * @throws {SettingsError} naming every variable that is wrong.
 */
export function readRunSettings(root: string, environment: NodeJS.ProcessEnv): RunSettings {
  const databaseUrl = environment.DATABASE_URL || undefined;
  const all: NodeJS.ProcessEnv = {
    ...readEnvFile(path.join(root, '.env')),
    ...environment,
    DATABASE_URL: databaseUrl ?? 'postgres://127.0.0.1/to-be-started',
  };
  const CONSUMER_SLOT = all.CONSUMER_SLOT ?? 'auto';
  const wrong = new Set<string>();
  const producer = check(() => readProducerSettings(all), wrong);
  const consumer = check(() => readConsumerSettings({ ...all, CONSUMER_SLOT, PORT: '0' }), wrong);
  const own = check(() => readSettings(schema, all), wrong);
  if (!producer || !consumer || !own) throw new SettingsError([...wrong].join('\n'));
  return {
    databaseUrl: databaseUrl && producer.DATABASE_URL,
    host: producer.HOST,
    port: producer.PORT,
    postgresPort: own.POSTGRES_PORT,
    consumers: own.CONSUMERS,
    consumerSlot: CONSUMER_SLOT,
    shutdownTimeoutMs: producer.SHUTDOWN_DRAIN_MS + producer.SHUTDOWN_TIMEOUT_MS,
    connections: producer.PG_POOL_MAX + own.CONSUMERS * consumer.PG_POOL_MAX,
  };
}

/** Returns what `read` returns; each line of its error goes to `wrong` once. */
function check<T>(read: () => T, wrong: Set<string>): T | undefined {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    for (const line of error.message.split('\n')) wrong.add(line);
    return undefined;
  }
}
