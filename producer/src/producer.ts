/** Builds the producer of its parts: HTTP in front, a pool behind, `ingest` between them. */
import cluster from 'node:cluster';
import type { RequestListener } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool } from '@pg-signals/db';
import {
  answerError,
  createApp,
  createMetrics,
  type HttpServer,
  type Logger,
  listen,
  Problem,
  type Service,
} from '@pg-signals/runtime';
import { createPublisher, type Publisher } from 'pg-signals';
import { canInsert } from './canInsert.ts';
import { keepClearingKeys } from './clearKeys.ts';
import { HeldBytes } from './ingest/heldBytes.ts';
import { createIngest, type Ingest } from './ingest/ingest.ts';
import { type IngestMetrics, ingestMetrics } from './metrics.ts';
import type { ProducerSettings } from './settings.ts';
import { metricsOfAllWorkers } from './workers/workerMetrics.ts';

const ABOUT = `The producer of pg-signals.

POST /ingest   inserts a signal {"signal_name": "temperature", "signal_value": 21.5}, an array of them, or NDJSON`;

/**
 * Starts a producer. The database may be unreachable: until it is there, `/readyz` answers 503 with the reason and
 * `POST /ingest` answers 500.
 *
 * @throws {PortTakenError} when `PORT` or `HEALTH_PORT` is in use.
 * @throws {NoSuchHostError} when this machine has no address `HOST`.
 */
export async function startProducer(settings: ProducerSettings, logger: Logger): Promise<Service> {
  const pool = createPool({
    connectionString: settings.DATABASE_URL,
    application_name: 'pg-signals producer',
    max: settings.PG_POOL_MAX,
    onConnectionError: (error) =>
      logger.warn('Database connection lost, the next request opens another', { reason: error.message }),
  });
  let stopped: Promise<void> | undefined;
  const metrics = createMetrics(logger, pool);
  const shownMetrics = cluster.isWorker ? metricsOfAllWorkers(metrics) : metrics;
  const held = new HeldBytes(settings.INGEST_MAX_HELD_BYTES, () => figures.notHeld());
  const figures: IngestMetrics = ingestMetrics(
    metrics,
    () => publisher.waiting,
    () => held.bytes,
  );
  const publisher: Publisher = createPublisher(pool, {
    maxBatch: settings.INGEST_MAX_BATCH,
    maxInFlight: settings.INGEST_MAX_IN_FLIGHT,
    maxQueue: settings.INGEST_MAX_QUEUE,
    maxQueueBytes: settings.INGEST_MAX_QUEUE_BYTES,
    timeoutMs: settings.INGEST_TIMEOUT_MS,
    logger,
    observer: {
      // With one object, which winston takes as it is; it copies the fields of a call with message and fields.
      publishing({ signal_name, signal_value }) {
        logger.log({ level: 'info', message: 'Inserting data into database', signal_name, signal_value });
      },
      ...figures,
    },
  });
  const abort = new AbortController();
  const ingest = createIngest({
    stopping: abort.signal,
    held,
    publisher,
    maxBody: settings.INGEST_MAX_BODY,
    maxDecompressed: settings.INGEST_MAX_DECOMPRESSED,
    maxBatch: settings.INGEST_MAX_BATCH,
    receiveTimeoutMs: settings.INGEST_RECEIVE_TIMEOUT_MS,
    tokens: settings.INGEST_TOKEN,
    random: settings.INGEST_RANDOM,
  });
  const ready = async () => {
    if (stopped) throw new Error('The producer is stopping.');
    await canInsert(pool, settings.INGEST_TIMEOUT_MS);
  };
  const parts = { about: ABOUT, logger, metrics: shownMetrics, ready };
  const { HOST: host, HEALTH_PORT: healthPort } = settings;
  const app = createApp({ ...parts, routes: { '/ingest': { post: ingest } }, health: healthPort === undefined });
  let health: HttpServer | undefined;
  let server: HttpServer;
  try {
    if (healthPort !== undefined)
      health = await listen(createApp(parts), healthPort, { host, variable: 'HEALTH_PORT' });
    server = await listen(inFrontOf(app, ingest, figures, logger), settings.PORT, {
      host,
      headersTimeoutMs: settings.INGEST_RECEIVE_TIMEOUT_MS,
      maxConnections: settings.INGEST_MAX_CONNECTIONS,
    });
  } catch (error) {
    await Promise.all([health?.stop(), pool.end()]);
    throw error;
  }
  logger.info('Producer listens', { url: server.url, ...(health && { health_url: health.url }) });

  const clearing = keepClearingKeys(
    pool,
    { hours: settings.INGEST_KEY_HOURS, timeoutMs: settings.INGEST_TIMEOUT_MS, logger },
    abort.signal,
  );

  async function stop(): Promise<void> {
    await sleep(settings.SHUTDOWN_DRAIN_MS); // until who asks /readyz sends no more
    abort.abort();
    await server.stop();
    await clearing;
    await publisher.close();
    await Promise.all([health?.stop(), pool.end()]);
  }
  return { url: server.url, stop: () => (stopped ??= stop()) };
}

/** Answers `POST /ingest` without express, which alone is limited to 10,000 requests/s; express serves everything else. */
function inFrontOf(app: RequestListener, ingest: Ingest, figures: IngestMetrics, logger: Logger): RequestListener {
  return (request, response) => {
    const isIngest = request.url === '/ingest' || request.url?.startsWith('/ingest?');
    if (!isIngest || request.method !== 'POST') return app(request, response);
    ingest(request, response).catch((error) => {
      if (error instanceof Problem) figures.rejected(error.status);
      answerError(logger, error, request, response);
    });
  };
}
