/** The producer as one process, or as several with INGEST_WORKERS. */
import cluster from 'node:cluster';
import { runService } from '@pg-signals/runtime';
import { startProducer } from './producer.ts';
import { readProducerSettings } from './settings.ts';
import { startWorkers } from './workers/workers.ts';

await runService(
  readProducerSettings,
  (settings, logger) =>
    settings.INGEST_WORKERS > 1 && cluster.isPrimary ? startWorkers(settings, logger) : startProducer(settings, logger),
  { child: cluster.isWorker },
);
