/** What `latency` measures, one at a time. Each function takes one sample, in ms. */
import { once } from 'node:events';
import { connect } from '../database.ts';
import { createHttpClient } from '../httpClient.ts';
import type { Service } from '../services.ts';
import { timed } from '../statistics.ts';
import type { Arrival } from './recordingConsumer.ts';

/** One signal through a producer, to the callback of a consumer in another process. */
export function openPath({ url }: Service, consumer: Service) {
  const http = createHttpClient(url);
  async function post(): Promise<{ toCallback: number; toAnswer: number }> {
    const arriving = consumer.message<Arrival>();
    const start = process.hrtime.bigint();
    const answer = JSON.parse(await http.send('POST', '/ingest'));
    const answered = process.hrtime.bigint();
    const { id, at } = await arriving;
    if (id !== answer.id) throw new Error(`Sent signal ${answer.id}, received ${id}`);
    return { toCallback: Number(at - start) / 1e6, toAnswer: Number(answered - start) / 1e6 };
  }
  return {
    toCallback: async () => (await post()).toCallback,
    toAnswer: async () => (await post()).toAnswer,
    roundTrip: () => timed(() => http.send('GET', '/healthz')),
    [Symbol.dispose]: http[Symbol.dispose],
  };
}

/** As long as the payload of a random signal. */
const PAYLOAD = 'x'.repeat(130);

/** What the server itself needs, on a database of its own, so that no consumer wakes up. */
export async function openFloor(databaseUrl: string) {
  const [sender, listener] = [await connect(databaseUrl), await connect(databaseUrl)];
  await listener.query('LISTEN floor; LISTEN new_signals');

  /** From the query to the notification. */
  async function sample(sql: string, values: unknown[]): Promise<number> {
    const notified = once(listener, 'notification').then(() => performance.now());
    const start = performance.now();
    await sender.query(sql, values);
    return (await notified) - start;
  }
  const insert = 'INSERT INTO signals (signal_name, signal_value) VALUES ($1, $2)';
  return {
    /** Writes nothing, so nothing is flushed to disk. */
    notify: () => sample('SELECT pg_notify($1, $2)', ['floor', PAYLOAD]),
    /** The trigger notifies, and the commit waits for the flush. */
    insert: () => sample(insert, ['test_signal', Math.random()]),
    [Symbol.asyncDispose]: async () => void (await Promise.all([sender.end(), listener.end()])),
  };
}
