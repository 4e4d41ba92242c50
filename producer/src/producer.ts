/** The producer, wired up: HTTP in front, a pool behind, `ingest` between them. */
import cluster from 'node:cluster';
import type { RequestListener } from 'node:http';
import { createPool, queryWithin } from '@pg-signals/db';
import { answerError, createApp, createMetrics, type Logger, listen, type Service } from '@pg-signals/runtime';
import type pg from 'pg';
import { createPublisher, type Publisher } from 'pg-signals';
import { keepClearingKeys } from './clearKeys.ts';
import { createIngest, type Ingest } from './ingest/ingest.ts';
import { ingestMetrics } from './metrics.ts';
import type { ProducerSettings } from './settings.ts';
import { metricsOfAllWorkers } from './workers/workerMetrics.ts';

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
  const shown = cluster.isWorker ? metricsOfAllWorkers(metrics) : metrics;
  const publisher: Publisher = createPublisher(pool, {
    maxBatch: settings.INGEST_MAX_BATCH,
    maxInFlight: settings.INGEST_MAX_IN_FLIGHT,
    maxQueue: settings.INGEST_MAX_QUEUE,
    maxQueueBytes: settings.INGEST_MAX_QUEUE_BYTES,
    timeoutMs: settings.INGEST_TIMEOUT_MS,
    logger,
    observer: {
      // One object: winston takes it as it is, while it searches and copies a message with fields.
      publishing({ signal_name, signal_value }) {
        logger.log({ level: 'info', message: 'Inserting data into database', signal_name, signal_value });
      },
      committed: ingestMetrics(metrics, () => publisher.waiting).committed,
    },
  });
  const ingest = createIngest({
    publisher,
    maxBody: settings.INGEST_MAX_BODY,
    maxUnpacked: settings.INGEST_MAX_UNPACKED,
    maxBatch: settings.INGEST_MAX_BATCH,
    receiveTimeoutMs: settings.INGEST_RECEIVE_TIMEOUT_MS,
  });
  const app = createApp({
    logger,
    metrics: shown,
    ready: () => canInsert(pool, settings.INGEST_TIMEOUT_MS),
    routes: { '/ingest': { post: ingest } },
  });
  const server = await listen(inFrontOf(app, ingest, logger), settings.PORT, {
    headersTimeoutMs: settings.INGEST_RECEIVE_TIMEOUT_MS,
  }).catch(async (error) => {
    await pool.end();
    throw error;
  });
  logger.info('Producer listens', { url: server.url });

  const abort = new AbortController();
  const clearing = keepClearingKeys(
    pool,
    { hours: settings.INGEST_KEY_HOURS, timeoutMs: settings.INGEST_TIMEOUT_MS, logger },
    abort.signal,
  );

  async function stop(): Promise<void> {
    abort.abort();
    await server.stop();
    await clearing;
    await publisher.close();
    await pool.end();
  }
  let stopped: Promise<void> | undefined;
  return { url: server.url, stop: () => (stopped ??= stop()) };
}

/** Answers `POST /ingest` without express, which by itself takes no more than 10,000 requests a second and serves the rest. */
function inFrontOf(app: RequestListener, ingest: Ingest, logger: Logger): RequestListener {
  return (request, response) => {
    const isIngest = request.url === '/ingest' || request.url?.startsWith('/ingest?');
    if (!isIngest || request.method !== 'POST') return app(request, response);
    ingest(request, response).catch((error) => answerError(logger, error, request, response));
  };
}

/** @throws {Error} whose message says what keeps signals from being inserted. */
async function canInsert(pool: pg.Pool, timeoutMs: number): Promise<void> {
  const [row] = await queryWithin<[boolean, boolean, boolean | null, boolean]>(
    pool,
    {
      text: `
        SELECT
          pg_is_in_recovery(),
          current_setting('transaction_read_only')::boolean,
          has_table_privilege(to_regclass('signals'), 'INSERT'),
          to_regclass('signal_keys') IS NOT NULL`,
      rowMode: 'array',
    },
    timeoutMs,
  ).catch((cause: Error) => {
    throw new Error(`The database does not answer: ${cause.message}`, { cause });
  });
  const [standby, readOnly, granted, hasKeys] = row!;
  if (standby) throw new Error('The database is a standby, which takes no writes: connect to its primary.');
  if (readOnly) throw new Error('The database takes no writes from this user: default_transaction_read_only is on.');
  if (granted === null) throw new Error('The table signals is missing: run npm run migrate.');
  if (!hasKeys) throw new Error('The table signal_keys is missing: run npm run migrate.');
  if (!granted) throw new Error('The database user may not insert into signals: GRANT INSERT ON signals.');
}
