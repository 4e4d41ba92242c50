/** The producer, wired up: HTTP in front, a pool behind, `ingest` between them. */
import { createPool, type Signal } from '@pg-signals/db';
import { createApp, createMetrics, type Logger, listen, type Service } from '@pg-signals/runtime';
import type pg from 'pg';
import { Counter, Histogram } from 'prom-client';
import { createIngest } from './ingest.ts';
import { insertSignals } from './insertSignals.ts';
import type { ProducerSettings } from './settings.ts';
import type { NewSignal } from './signalInput.ts';

/**
 * Starts a producer. The database may come later: until it does, `/readyz` says why not and `POST /ingest` answers 500.
 *
 * @throws {PortTakenError} when `PORT` is in use.
 */
export async function startProducer(settings: ProducerSettings, logger: Logger): Promise<Service> {
  const pool = createPool({
    connectionString: settings.DATABASE_URL,
    application_name: 'pg-signals producer',
    max: settings.PG_POOL_MAX,
    onConnectionError: (error) =>
      logger.warn('Database connection lost, the next request opens another', { reason: error.message }),
  });
  const metrics = createMetrics();
  const ingested = new Counter({
    name: 'signals_ingested_total',
    help: 'Signals committed.',
    registers: [metrics],
  });
  const duration = new Histogram({
    name: 'signals_ingest_duration_seconds',
    help: 'From a signal that was read and checked to the end of its commit.',
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10],
    registers: [metrics],
  });

  async function insert(signal: NewSignal): Promise<Signal> {
    const { signal_name, signal_value } = signal;
    logger.info('Inserting data into database', { signal_name, signal_value });
    const observe = duration.startTimer();
    const [row] = await insertSignals(pool, [signal]);
    observe();
    ingested.inc();
    return row!;
  }

  const app = createApp({
    logger,
    metrics,
    ready: () => canInsert(pool),
    routes: { '/ingest': { post: createIngest({ insert, maxBody: settings.INGEST_MAX_BODY }) } },
  });
  const server = await listen(app, settings.PORT).catch(async (error) => {
    await pool.end();
    throw error;
  });
  logger.info('Producer listens', { url: server.url });

  let stopped: Promise<void> | undefined;
  return {
    url: server.url,
    stop: () => (stopped ??= server.stop().then(() => pool.end())),
  };
}

/** @throws {Error} whose message says what keeps signals from being inserted. */
async function canInsert(pool: pg.Pool): Promise<void> {
  const { rows } = await pool
    .query<{ standby: boolean; granted: boolean | null }>(
      `SELECT pg_is_in_recovery() AS standby, has_table_privilege(to_regclass('signals'), 'INSERT') AS granted`,
    )
    .catch((cause: Error) => {
      throw new Error(`The database does not answer: ${cause.message || cause}`, { cause });
    });
  const { standby, granted } = rows[0]!;
  if (standby) throw new Error('The database is a standby, which takes no writes: connect to its primary.');
  if (granted === null) throw new Error('The table signals is missing: run npm run migrate.');
  if (!granted) throw new Error('The database user may not insert into signals: GRANT INSERT ON signals.');
}
