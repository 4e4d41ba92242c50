export { startProducer } from './producer.ts';
export { type ProducerSettings, readProducerSettings } from './settings.ts';
