/** Our consumer: the service as it is deployed, with settings short enough for a run of a minute. */
import { once } from 'node:events';
import { readConsumerSettings, startConsumer } from '@pg-signals/consumer';
import { createLogger } from '@pg-signals/runtime';
import type { Consume } from './consume.ts';

export const consume: Consume = async (url, name, hooks, signal) => {
  const named = new URL(url);
  named.searchParams.set('application_name', name); // in the URL it takes the place of the service's own
  const settings = readConsumerSettings({
    DATABASE_URL: named.href,
    PORT: '0',
    LISTEN_PROOF_INTERVAL_MS: '500',
    LISTEN_PROOF_TIMEOUT_MS: '500',
    LISTEN_POLL_MS: '200',
    LISTEN_RETRY_MS: '500',
    LISTEN_BUFFER_MAX: '1000',
  });
  const logger = createLogger();
  const service = await startConsumer(settings, logger, (received) => hooks.received(received));
  await once(signal, 'abort');
  await service.stop();
  await logger.lines.written();
};
