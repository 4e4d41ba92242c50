/** The consumer as a process. */
import { runService } from '@pg-signals/runtime';
import { startConsumer } from './consumer.ts';
import { readConsumerSettings } from './settings.ts';

await runService(readConsumerSettings, startConsumer);
