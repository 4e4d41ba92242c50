export { startConsumer } from './consumer.ts';
export { Listener, type ListenerOptions, type SignalCallback } from './listener.ts';
export { type ConsumerSettings, readConsumerSettings } from './settings.ts';
