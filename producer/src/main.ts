/** The producer as a process. */
import { runService } from '@pg-signals/runtime';
import { startProducer } from './producer.ts';
import { readProducerSettings } from './settings.ts';

await runService(readProducerSettings, startProducer);
