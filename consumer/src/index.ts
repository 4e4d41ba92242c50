export { startConsumer } from './consumer.ts';
export type { Source } from './feed.ts';
export type { Callback } from './handOn.ts';
export type { PayloadHandler } from './link.ts';
export { Listener, type ListenerObserver, type ListenerOptions, type SignalCallback } from './listener.ts';
export { type LogRow, type LogTable, signalsTable, type TruncatedRow } from './logTable.ts';
export { publish } from './publish.ts';
export { type ConsumerSettings, readConsumerSettings } from './settings.ts';
