/** NATS JetStream: publish and await the acknowledgement; an ordered consumer to which the server pushes. */
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import type { NewSignal } from 'pg-signals';

export const STREAM = 'signals';

export async function connectPublisher(url: string) {
  const js = jetstream(await connect({ servers: url }));
  return (signal: NewSignal) => js.publish(STREAM, JSON.stringify(signal));
}

export async function subscribe(url: string, onSignal: (signal: NewSignal) => void): Promise<void> {
  const js = jetstream(await connect({ servers: url }));
  const consumer = await js.consumers.getPushConsumer(STREAM);
  await consumer.consume({ callback: (message) => onSignal(message.json()) });
}
