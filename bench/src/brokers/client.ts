/** What a program needs of a broker to publish and to subscribe; each broker has one, with its usual client. */
import type { NewSignal } from 'pg-signals';
import type { BrokerName } from './names.ts';

export interface BrokerClient {
  /** Resolves with a function that publishes one signal and resolves when the broker has acknowledged it. */
  connectPublisher(url: string): Promise<(signal: NewSignal) => Promise<unknown>>;
  /** Resolves when nothing more is missed; every signal published goes to `onSignal`, parsed. */
  subscribe(url: string, onSignal: (signal: NewSignal) => void): Promise<void>;
}

export async function brokerClient(broker: BrokerName): Promise<BrokerClient> {
  switch (broker) {
    case 'pgSignals':
      return import('./pgSignals.ts');
    case 'redisAlways':
    case 'redisEverySecond':
      return import('./redisStreams.ts');
    case 'jetStream':
      return import('./jetStream.ts');
  }
}
