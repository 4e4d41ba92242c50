/** From POST to the line in a consumer's log, one at a time: our pair, and the Go original. */
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Database } from '../database.ts';
import { createHttpClient } from '../httpClient.ts';
import { Program } from '../process.ts';
import { print } from '../report.ts';
import { startService } from '../services.ts';
import { type Figures, inTurns, medians, ROUNDS, samples, timed } from '../statistics.ts';
import { table } from '../table.ts';
import { SECONDS_PER_POINT } from './load.ts';
import { go, PRODUCERS } from './producers.ts';

const SAMPLES = 100 * SECONDS_PER_POINT;
/** Until the code of services that receive a signal now and then is compiled as far as it will be. */
const UNCOUNTED_ROUNDS = 10;

/** Each pair has a database of its own on the same server, so that neither wakes up for the other's signals. */
export async function measureIdle(database: Database): Promise<Record<string, Figures>> {
  await using stack = new AsyncDisposableStack();
  const pairs: Record<string, () => Promise<number>> = {};
  const ourUrl = await database.another('idle_ours');
  pairs.ours = await openPair('ours', ourUrl, await startService('consumer/src/main.ts', ourUrl, { stdout: 'pipe' }));
  if (go) {
    const env = { DATABASE_URL: await database.another('idle_go') };
    const consumer = new Program([go, 'consumer'], { env, stderr: 'pipe' });
    pairs['Go original'] = await openPair('Go original', env.DATABASE_URL, consumer);
  }
  const measure = (pair: string) => samples(SAMPLES, pairs[pair]!);
  const rows = medians(await inTurns(Object.keys(pairs), ROUNDS, measure, UNCOUNTED_ROUNDS));
  const title = "One signal at a time, from POST to the line in the consumer's log";
  print(`${title}; medians of ${ROUNDS} rounds of ${SAMPLES}`, table('ms', rows));
  return rows;

  /** Resolves with a function that takes one sample, in ms. */
  async function openPair(producerName: string, databaseUrl: string, consumer: Program) {
    stack.use(consumer);
    const producer = stack.use(await PRODUCERS[producerName]!(databaseUrl));
    const http = stack.use(createHttpClient(producer.url));
    const log = createInterface({ input: consumer.child.stdout ?? consumer.child.stderr! });
    await once(log, 'line'); // Starting listener
    log.on('line', (line) => {
      if (line.includes('notification received')) log.emit('signal');
    });
    return () =>
      timed(async () => {
        const received = once(log, 'signal', { signal: AbortSignal.timeout(10_000) });
        await http.send('POST', '/ingest');
        await received;
      });
  }
}
