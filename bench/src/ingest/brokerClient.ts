/**
 * Publishes or subscribes with the usual client of a broker: `node brokerClient.ts <client> publish|subscribe <url>`. It
 * sends `ready` when it is connected. A publisher publishes each time it is sent an order, and sends its figures; a
 * subscriber answers any message with the number of signals that it has received, each parsed.
 */
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { createPool } from '@pg-signals/db';
import { createPublisher, Listener, type NewSignal } from 'pg-signals';
import { createClient } from 'redis';
import { median, quantile } from '../statistics.ts';

/** Of the stream in Redis, and in NATS. */
export const STREAM = 'signals';

export interface Order {
  seconds: number;
  inFlight: number;
}
export interface Published {
  acknowledged: number;
  seconds: number;
  /** From publish to its acknowledgement, in ms. */
  p50: number;
  p99: number;
}

/** Resolves when the broker has acknowledged the signal. */
type Publish = (signal: NewSignal) => Promise<unknown>;
/** Called with every signal. */
type OnSignal = (signal: NewSignal) => void;

const CLIENTS = {
  pgSignals: {
    publish: async (url: string): Promise<Publish> =>
      createPublisher(createPool({ connectionString: url, application_name: 'bench' })).publish,
    async subscribe(url: string, onSignal: OnSignal) {
      const pool = createPool({ connectionString: url, application_name: 'bench' });
      const { promise, resolve } = Promise.withResolvers<void>();
      const observer = { listening: (now: boolean) => now && resolve() };
      new Listener(pool, { observer }, onSignal).start(new AbortController().signal);
      await promise;
    },
  },
  redis: {
    /** The client sends commands together in one write. */
    async publish(url: string): Promise<Publish> {
      const client = await createClient({ url }).connect();
      return (signal) => client.xAdd(STREAM, '*', { signal: JSON.stringify(signal) });
    },
    async subscribe(url: string, onSignal: OnSignal) {
      const client = await createClient({ url }).connect();
      void (async () => {
        for (let id = '0-0'; ; ) {
          const streams = await client.xRead({ key: STREAM, id }, { BLOCK: 0, COUNT: 1_000 });
          const [{ messages }] = streams as unknown as [{ messages: { id: string; message: { signal: string } }[] }];
          for (const { message } of messages) onSignal(JSON.parse(message.signal));
          id = messages.at(-1)!.id;
        }
      })();
    },
  },
  nats: {
    async publish(url: string): Promise<Publish> {
      const js = jetstream(await connect({ servers: url }));
      return (signal) => js.publish(STREAM, JSON.stringify(signal));
    },
    /** An ordered consumer, to which the server pushes. */
    async subscribe(url: string, onSignal: OnSignal) {
      const consumer = await jetstream(await connect({ servers: url })).consumers.getPushConsumer(STREAM);
      await consumer.consume({ callback: (message) => onSignal(message.json()) });
    },
  },
};
export type ClientName = keyof typeof CLIENTS;

async function publishFor({ seconds, inFlight }: Order, publish: Publish): Promise<Published> {
  const times: number[] = [];
  const start = performance.now();
  async function keepPublishing(): Promise<void> {
    for (let begun = start; begun < start + seconds * 1_000; begun = performance.now()) {
      await publish({ signal_name: 'test_signal', signal_value: Math.random() });
      times.push(performance.now() - begun);
    }
  }
  await Promise.all(Array.from({ length: inFlight }, keepPublishing));
  const elapsed = (performance.now() - start) / 1_000;
  return { acknowledged: times.length, seconds: elapsed, p50: median(times), p99: quantile(times, 0.99) };
}

if (import.meta.main) {
  const [name, role, url] = process.argv.slice(2) as [ClientName, 'publish' | 'subscribe', string];
  if (role === 'publish') {
    const publish = await CLIENTS[name].publish(url);
    process.on('message', async (order: Order) => process.send!(await publishFor(order, publish)));
  } else {
    let received = 0;
    await CLIENTS[name].subscribe(url, ({ signal_name }) => {
      if (signal_name === 'test_signal') received++;
    });
    process.on('message', () => process.send!(received));
  }
  process.send!('ready');
}
