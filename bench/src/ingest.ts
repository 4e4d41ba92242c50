/** One signal at a time through a producer, and when it reached the callback of a consumer in another process. */
import type { ChildProcess } from 'node:child_process';
import type { Signal } from '@pg-signals/db';
import { createHttpClient } from './httpClient.ts';
import type { Arrival } from './recordingConsumer.ts';

export function createIngest(producerUrl: string, consumer: ChildProcess) {
  const http = createHttpClient(producerUrl);
  const arrived = new Map<number, (at: bigint) => void>();
  const early = new Map<number, bigint>();
  consumer.on('message', ({ id, at }: Arrival) => {
    const resolve = arrived.get(id);
    if (!resolve) early.set(id, at); // its answer is still on the way to us
    arrived.delete(id);
    resolve?.(at);
  });
  const arrival = (id: number) =>
    new Promise<bigint>((resolve) => {
      const at = early.get(id);
      early.delete(id);
      if (at === undefined) arrived.set(id, resolve);
      else resolve(at);
    });

  return {
    /** ms from the request to the callback. */
    async toCallback(): Promise<number> {
      const start = process.hrtime.bigint();
      const { id } = JSON.parse(await http.send('POST', '/ingest')) as Signal;
      return Number((await arrival(id)) - start) / 1e6;
    },
    /** ms from the request to its answer; the signal has arrived when it resolves. */
    async toAnswer(): Promise<number> {
      const start = performance.now();
      const { id } = JSON.parse(await http.send('POST', '/ingest')) as Signal;
      const answered = performance.now();
      await arrival(id);
      return answered - start;
    },
    /** ms of one HTTP round trip that does nothing. */
    async roundTrip(): Promise<number> {
      const start = performance.now();
      await http.send('GET', '/healthz');
      return performance.now() - start;
    },
    close: http.close,
  };
}
