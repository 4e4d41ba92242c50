export { startProducer } from './producer.ts';
export { type ProducerSettings, readProducerSettings } from './settings.ts';
export type { NewSignal } from './signalInput.ts';
