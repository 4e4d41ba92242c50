export { startConsumer } from './consumer.ts';
export { type ConsumerSettings, readConsumerSettings } from './settings.ts';
