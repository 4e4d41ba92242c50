/** The consumer, wired up: a listener on the database, HTTP for health and figures. */
import { createPool, createQuery, NoAnswerError, NotConnectedError, requireRights } from '@pg-signals/db';
import { createApp, createMetrics, type Logger, listen, type Service } from '@pg-signals/runtime';
import { Listener, type SignalCallback } from 'pg-signals';
import { createListenerMetrics } from './metrics.ts';
import type { ConsumerSettings } from './settings.ts';

/** A proof is missed twice before the service says that it is not ready. */
const PROOFS = 3;
/** For `/readyz` to ask for the user's rights, in ms: far below what a prober waits for its answer. */
const RIGHTS_TIMEOUT_MS = 1_000;

const ABOUT = `A consumer of pg-signals. Its log has a line for each signal; POST /ingest is at the producer.
`;

/**
 * Starts a consumer that logs every signal and delivers it to `callbacks`. The database may come later.
 *
 * @throws {PortTakenError} when `PORT`, or `HEALTH_PORT` in its place, is in use.
 * @throws {NoSuchHostError} when this machine has no address `HOST`.
 */
export async function startConsumer(
  settings: ConsumerSettings,
  logger: Logger,
  ...callbacks: SignalCallback[]
): Promise<Service> {
  const pool = createPool({
    connectionString: settings.DATABASE_URL,
    application_name: 'pg-signals consumer',
    max: settings.PG_POOL_MAX,
  });
  const metrics = createMetrics(logger, pool);
  const logSignal: SignalCallback = ({ id, timestamp, signal_name, signal_value, attributes }) => {
    // One object: winston takes it as it is, while it searches and copies a message with fields.
    const line = { level: 'info', message: 'notification received', id, timestamp, signal_name, signal_value };
    logger.log(isEmpty(attributes) ? line : { ...line, attributes });
    return logger.lines.room(); // signals wait in the listener's buffer and in the table, which are made for that
  };
  const listener: Listener = new Listener(
    pool,
    {
      logger,
      observer: createListenerMetrics(metrics, () => listener.proofAgeMs),
      bufferMax: settings.LISTEN_BUFFER_MAX,
      maxRowBytes: settings.LISTEN_MAX_ROW_BYTES,
      proofIntervalMs: settings.LISTEN_PROOF_INTERVAL_MS,
      proofEvery: settings.LISTEN_PROOF_EVERY,
      proofTimeoutMs: settings.LISTEN_PROOF_TIMEOUT_MS,
      pollMs: settings.LISTEN_POLL_MS,
      retryMs: settings.LISTEN_RETRY_MS,
    },
    logSignal,
    ...callbacks,
  );
  const query = createQuery(pool, RIGHTS_TIMEOUT_MS);
  let stopped: Promise<void> | undefined;
  const ready = async () => {
    if (stopped) throw new Error('The consumer is stopping.');
    if (logger.lines.room()) throw new Error('The log is not being read, and signals wait for that.');
    // Without SELECT small signals still come, as notifications, and the proofs succeed.
    await requireRights(query, 'signals_consumer').catch(ignoreNoAnswer);
    requireFresh(listener.proofAgeMs, PROOFS * settings.LISTEN_PROOF_INTERVAL_MS);
  };
  const app = createApp({ about: ABOUT, logger, metrics, ready });
  // Nothing else is served yet, so there is one port.
  const { HOST: host, PORT, HEALTH_PORT } = settings;
  const variable = HEALTH_PORT === undefined ? 'PORT' : 'HEALTH_PORT';
  const server = await listen(app, HEALTH_PORT ?? PORT, { host, variable }).catch(async (error) => {
    await pool.end();
    throw error;
  });
  logger.info('Consumer serves health and metrics', { url: server.url });
  const abort = new AbortController();
  const listened = listener.start(abort.signal);

  const stop = async () => {
    abort.abort();
    await listened;
    await Promise.all([server.stop(), pool.end()]);
  };
  return { url: server.url, stop: () => (stopped ??= stop()) };
}

function isEmpty(object: object): boolean {
  for (const _ in object) return false;
  return true;
}

/** A database that does not answer now is what the age of the last proof tells. */
function ignoreNoAnswer(error: unknown): void {
  if (!(error instanceof NotConnectedError || error instanceof NoAnswerError)) throw error;
}

/** @throws {Error} whose message says how old the last proof is. */
function requireFresh(ageMs: number | undefined, maxMs: number): void {
  if (ageMs === undefined) throw new Error('Nothing has been received yet: the log says why, and what is tried next.');
  if (ageMs <= maxMs) return;
  throw new Error(
    `The last proof that every signal arrives is ${(ageMs / 1000).toFixed(1)} s old, more than ${maxMs / 1000} s: the log says why, and what is tried next.`,
  );
}
