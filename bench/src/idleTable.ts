/** From POST to the line in a consumer's log, one at a time: the whole of our pair, and the whole of the Go original. */

import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchDatabase } from './database.ts';
import { createHttpClient } from './httpClient.ts';
import { type IdleTable, medianOf, type Quantiles } from './ingestResults.ts';
import { startPeer } from './peerProcess.ts';
import { startProducer } from './producers.ts';
import { startServiceChild } from './serviceChild.ts';
import { quantile } from './statistics.ts';

export interface IdlePlan {
  rounds: number;
  samples: number;
  go: string | undefined;
}

/** Between two samples, so that each finds services with nothing to do. */
const PAUSE_MS = 3;
/** Until the code of services that take a signal now and then is compiled as well as it will be. */
const UNCOUNTED_ROUNDS = 10;
const LINE_DEADLINE_MS = 10_000;

interface Pair {
  /** ms from the request to the consumer's line. */
  sample(): Promise<number>;
}

/** Each pair has a database of its own on the same server, so that neither wakes up for the other's signals. */
export async function measureIdle(database: BenchDatabase, { rounds, samples, go }: IdlePlan): Promise<IdleTable> {
  await using stack = new AsyncDisposableStack();
  const pairs: Partial<Record<'ours' | 'go', Pair>> = { ours: await startOurs(database, stack) };
  if (go !== undefined) pairs.go = await startGo(database, go, stack);

  const measured: Record<'ours' | 'go', Quantiles[]> = { ours: [], go: [] };
  for (let round = -UNCOUNTED_ROUNDS; round < rounds; round++) {
    for (const name of Object.keys(pairs) as ('ours' | 'go')[]) {
      const times: number[] = [];
      for (let i = 0; i < samples; i++) {
        times.push(await pairs[name]!.sample());
        await sleep(PAUSE_MS);
      }
      if (round >= 0) measured[name].push({ p50: quantile(times, 0.5), p99: quantile(times, 0.99) });
    }
  }
  const medians = (name: 'ours' | 'go') => ({
    p50: medianOf(measured[name], ({ p50 }) => p50),
    p99: medianOf(measured[name], ({ p99 }) => p99),
  });
  return { rounds, samples, ours: medians('ours'), ...(pairs.go && { go: medians('go') }) };
}

async function startOurs(database: BenchDatabase, stack: AsyncDisposableStack): Promise<Pair> {
  const url = await database.another('idle_ours');
  const producer = await startProducer('ours', url);
  stack.defer(() => producer.stop());
  const consumer = await startServiceChild('consumer/src/main.ts', url, { log: 'pipe' });
  stack.defer(() => consumer.stop());
  return createPair(producer.url, consumer.process.stdout!, stack);
}

async function startGo(database: BenchDatabase, go: string, stack: AsyncDisposableStack): Promise<Pair> {
  const url = await database.another('idle_go');
  const producer = await startProducer('go', url, go);
  stack.defer(() => producer.stop());
  const consumer = startPeer(go, ['consumer'], { env: { DATABASE_URL: url }, log: 'pipe' });
  stack.defer(() => consumer.stop());
  const log = consumer.process.stderr!;
  await new Promise((resolve) => log.once('data', resolve)); // Starting listener
  return createPair(producer.url, log, stack);
}

function createPair(ingestUrl: string, log: Readable, stack: AsyncDisposableStack): Pair {
  const { origin, pathname } = new URL(ingestUrl);
  const http = createHttpClient(origin);
  stack.defer(http.close);
  let received = () => {};
  createInterface({ input: log }).on('line', (line) => {
    if (line.includes('notification received')) received();
  });
  return {
    async sample() {
      const line = new Promise<number>((resolve) => {
        received = () => resolve(performance.now());
      });
      const start = performance.now();
      await http.send('POST', pathname);
      const late = sleep(LINE_DEADLINE_MS, undefined, { ref: false }).then(() => {
        throw new Error(`${ingestUrl}: its consumer has not received the signal`);
      });
      return (await Promise.race([line, late])) - start;
    },
  };
}
