/** Publishing from a program to two subscribers: ours beside the brokers that people would use. */
import path from 'node:path';
import type { Database } from '../database.ts';
import { Program, retry } from '../process.ts';
import { print } from '../report.ts';
import { type Figures, inTurns, medians, ROUNDS } from '../statistics.ts';
import { table } from '../table.ts';
import { coresDuring } from '../usage.ts';
import type { Order, Published } from './brokerClient.ts';
import { type Broker, startBrokers } from './brokerServers.ts';
import { SECONDS_PER_POINT } from './load.ts';

const ORDER: Order = { seconds: SECONDS_PER_POINT, inFlight: 64 };

/** The brokers take turns in each round; a turn ends when both subscribers have all. The first round is not counted. */
export async function measureBrokers(database: Database): Promise<Record<string, Figures>> {
  await using stack = new AsyncDisposableStack();
  const turns: Record<string, () => Promise<Figures>> = {};
  const brokers = await startBrokers(database, stack);
  for (const broker of brokers) turns[broker.name] = await openTurn(broker, stack);
  const rows = medians(await inTurns(Object.keys(turns), ROUNDS, (name) => turns[name]!(), 1));
  const promises = brokers.map(({ name, version, promise }) => `- ${name} (${version}): ${promise}`);
  const rounds = `medians of ${ROUNDS} rounds of ${SECONDS_PER_POINT} s`;
  print(
    `Published from a program, ${ORDER.inFlight} in flight, to two subscribers; ${rounds}`,
    table('', rows),
    ['What an acknowledgement promises:', ...promises].join('\n'),
  );
  return rows;
}

/** Starts a broker's publisher and two subscribers. Resolves with a function that measures one turn. */
async function openTurn({ name, client, url, pid, clear }: Broker, stack: AsyncDisposableStack) {
  async function start(role: 'publish' | 'subscribe'): Promise<Program> {
    const file = path.join(import.meta.dirname, 'brokerClient.ts');
    const program = stack.use(new Program([process.execPath, file, client, role, url]));
    await program.message();
    return program;
  }
  const [publisher, first, second] = [await start('publish'), await start('subscribe'), await start('subscribe')];
  const received = () => Promise.all([first, second].map((subscriber) => subscriber.ask<number>('received?')));
  const pids = {
    'cores: publisher': publisher.pid,
    server: pid,
    'subscriber 1': first.pid,
    'subscriber 2': second.pid,
  };

  return async (): Promise<Figures> => {
    await clear();
    const before = await received();
    const [published, cores] = await coresDuring(pids, () => publisher.ask<Published>(ORDER));
    const { acknowledged, seconds, p50, p99 } = published;
    await retry(async () => {
      const counts = (await received()).map((count, i) => count - before[i]!);
      if (counts.every((count) => count === acknowledged)) return;
      throw new Error(`${name}: ${acknowledged} signals were published, ${counts.join(' and ')} received`);
    }, AbortSignal.timeout(60_000));
    const messages = { 'messages = received by both': acknowledged };
    return { 'published/s': acknowledged / seconds, 'p50 ms': p50, 'p99 ms': p99, ...messages, ...cores };
  };
}
