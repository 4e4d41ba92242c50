/** The consumer, wired up: a listener on the database, HTTP for health and figures. */
import { createPool } from '@pg-signals/db';
import { createApp, createMetrics, type Logger, listen, type Service } from '@pg-signals/runtime';
import { Counter, Gauge } from 'prom-client';
import { Listener, type SignalCallback } from './listener.ts';
import type { ConsumerSettings } from './settings.ts';

/**
 * Starts a consumer that logs every signal and hands it to `callbacks`. The database may come later.
 *
 * @throws {PortTakenError} when `PORT` is in use.
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
  const metrics = createMetrics();
  const registers = [metrics];
  const received = new Counter({
    name: 'signals_received_total',
    help: 'Signals handed to the callbacks, by the way they came.',
    labelNames: ['source'],
    registers,
  });
  const reconnects = new Counter({ name: 'signals_reconnects_total', help: 'Attempts to listen again.', registers });
  const invalid = new Counter({
    name: 'signals_invalid_payloads_total',
    help: 'Notifications that were no signal.',
    registers,
  });
  const listening = new Gauge({ name: 'signals_listening', help: '1 while the consumer listens.', registers });

  let isListening = false;
  const count: SignalCallback = () => received.inc({ source: 'notify' });
  const log: SignalCallback = ({ id, timestamp, signal_name, signal_value }) => {
    logger.info('notification received', { id, timestamp, signal_name, signal_value });
  };
  const listener = new Listener(
    pool,
    {
      logger,
      onListening: (now) => {
        isListening = now;
        listening.set(now ? 1 : 0);
      },
      onReconnect: () => reconnects.inc(),
      onInvalidPayload: () => invalid.inc(),
    },
    count,
    log,
    ...callbacks,
  );

  const ready = async () => {
    if (!isListening) throw new Error('The consumer does not listen: the log says why, and when it tries again.');
  };
  const server = await listen(createApp({ logger, metrics, ready }), settings.PORT);
  logger.info('Consumer serves health and metrics', { url: server.url });
  const abort = new AbortController();
  const listened = listener.start(abort.signal);

  let stopped: Promise<void> | undefined;
  const stop = async () => {
    abort.abort();
    await listened;
    await Promise.all([server.stop(), pool.end()]);
  };
  return { url: server.url, stop: () => (stopped ??= stop()) };
}
