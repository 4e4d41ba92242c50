/** The settings of `make run`, from the environment and `.env`. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { parseEnv } from 'node:util';
import { readConsumerSettings } from '@pg-signals/consumer';
import { readProducerSettings } from '@pg-signals/producer';
import { SettingsError } from '@pg-signals/runtime';

export interface RunSettings {
  /** A server to use; where undefined, `make run` starts one. */
  databaseUrl: string | undefined;
  /** The producer's port; 0 takes a free one. */
  port: number;
  consumers: number;
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
  const file = path.join(root, '.env');
  const databaseUrl = environment.DATABASE_URL || undefined;
  const all: NodeJS.ProcessEnv = {
    ...(existsSync(file) ? parseEnv(readFileSync(file, 'utf8')) : {}),
    ...environment,
    DATABASE_URL: databaseUrl ?? 'postgres://127.0.0.1/to-be-started',
  };
  const wrong = new Set<string>();
  const producer = check(() => readProducerSettings(all), wrong);
  const consumer = check(() => readConsumerSettings({ ...all, PORT: '0' }), wrong);
  const consumers = check(() => readConsumers(all.CONSUMERS || '2'), wrong);
  if (!producer || !consumer || !consumers) throw new SettingsError([...wrong].join('\n'));
  return {
    databaseUrl,
    port: producer.PORT,
    consumers,
    shutdownTimeoutMs: producer.SHUTDOWN_TIMEOUT_MS,
    connections: producer.PG_POOL_MAX + consumers * consumer.PG_POOL_MAX,
  };
}

function readConsumers(value: string): number {
  if (/^[1-9]\d{0,3}$/.test(value)) return Number(value);
  throw new SettingsError(`CONSUMERS: expected a whole number of at least 1, got ${JSON.stringify(value)}`);
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
