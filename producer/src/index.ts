export { startProducer } from './producer.ts';
export { PublishError, type PublishFailure } from './publishError.ts';
export { createPublisher, type Publisher, type PublisherOptions } from './publisher.ts';
export { type ProducerSettings, readProducerSettings } from './settings.ts';
export type { FieldError, NewSignal } from './signalInput.ts';
export type { GroupKey } from './signalRow.ts';
