/** Publishing from a program, with so many in flight and two subscribers: ours beside the brokers that people would take. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { endWithUs } from '@pg-signals/local/embedded';
import type { BrokerName } from './brokers/names.ts';
import type { PublishOrder, PublishReport } from './brokers/publisherProcess.ts';
import { type BrokerServer, startBrokers } from './brokers/servers.ts';
import { cpuSecondsOfTree } from './cpu.ts';
import type { BenchDatabase } from './database.ts';
import { type BrokerPoint, type BrokerTable, medianOf } from './ingestResults.ts';

export interface BrokerPlan {
  rounds: number;
  secondsPerPoint: number;
  inFlight: number;
}

const RECEIVE_DEADLINE_MS = 60_000;

interface Parties {
  server: BrokerServer;
  publisher: ChildProcess;
  subscribers: [ChildProcess, ChildProcess];
}

/** The brokers take turns in each round; a turn ends when both subscribers have all. The first round is not counted. */
export async function measureBrokers(database: BenchDatabase, plan: BrokerPlan): Promise<BrokerTable> {
  await using stack = new AsyncDisposableStack();
  const all: Parties[] = [];
  for (const server of await startBrokers(database, stack)) {
    const start = (program: string) => startProgram(program, server, stack);
    const subscribers: [ChildProcess, ChildProcess] = [
      await start('subscriberProcess'),
      await start('subscriberProcess'),
    ];
    all.push({ server, publisher: await start('publisherProcess'), subscribers });
  }
  const measured: BrokerPoint[] = [];
  for (let round = 0; round <= plan.rounds; round++) {
    for (const parties of all) {
      const point = await measurePoint(parties, plan);
      if (round > 0) measured.push(point);
    }
  }
  const points = all.map(({ server }) => medians(measured.filter(({ broker }) => broker === server.broker)));
  return { ...plan, points };
}

async function startProgram(
  program: string,
  { broker, url }: BrokerServer,
  stack: AsyncDisposableStack,
): Promise<ChildProcess> {
  const file = fileURLToPath(new URL(`brokers/${program}.ts`, import.meta.url));
  const child = fork(file, [broker, url], { cwd: '/', stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });
  endWithUs(child, 'TERM');
  const ended = once(child, 'exit');
  stack.defer(async () => {
    child.kill();
    await ended;
  });
  await reply<'ready'>(child, broker);
  return child;
}

/** The next message of a child. */
async function reply<T>(child: ChildProcess, broker: BrokerName): Promise<T> {
  const abort = new AbortController();
  const ended = once(child, 'exit', { signal: abort.signal }).then(([code, signal]) => {
    throw new Error(`A program of ${broker} ended with ${signal ?? `code ${code}`}`);
  });
  try {
    const signal = AbortSignal.any([abort.signal, AbortSignal.timeout(120_000)]);
    const [message] = await Promise.race([once(child, 'message', { signal }), ended]);
    return message as T;
  } finally {
    ended.catch(() => {});
    abort.abort();
  }
}

async function measurePoint({ server, publisher, subscribers }: Parties, plan: BrokerPlan): Promise<BrokerPoint> {
  const { broker, version } = server;
  const received = () =>
    Promise.all(
      subscribers.map((child) => {
        child.send('received?');
        return reply<number>(child, broker);
      }),
    );
  await server.clear();
  const before = await received();
  const pids = [publisher, ...subscribers].map((child) => child.pid!).concat(server.pid);
  const cpuBefore = pids.map(cpuSecondsOfTree);
  publisher.send({ seconds: plan.secondsPerPoint, inFlight: plan.inFlight } satisfies PublishOrder);
  const report = await reply<PublishReport>(publisher, broker);
  const cores = pids.map((pid, i) => (cpuSecondsOfTree(pid) - cpuBefore[i]!) / report.seconds);

  const deadline = Date.now() + RECEIVE_DEADLINE_MS;
  for (;;) {
    const counts = (await received()).map((count, i) => count - before[i]!);
    if (counts.every((count) => count === report.acknowledged)) break;
    if (Date.now() > deadline)
      throw new Error(`${broker}: ${report.acknowledged} published, received ${counts.join(' and ')}`);
    await sleep(20);
  }
  return {
    broker,
    version,
    publishedPerSecond: report.acknowledged / report.seconds,
    p50: report.p50,
    p99: report.p99,
    messages: report.acknowledged,
    cores: { publisher: cores[0]!, subscribers: [cores[1]!, cores[2]!], server: cores[3]! },
  };
}

function medians(rounds: readonly BrokerPoint[]): BrokerPoint {
  return {
    ...rounds[0]!,
    publishedPerSecond: medianOf(rounds, (round) => round.publishedPerSecond),
    p50: medianOf(rounds, ({ p50 }) => p50),
    p99: medianOf(rounds, ({ p99 }) => p99),
    messages: rounds.reduce((sum, { messages }) => sum + messages, 0),
    cores: {
      publisher: medianOf(rounds, ({ cores }) => cores.publisher),
      server: medianOf(rounds, ({ cores }) => cores.server),
      subscribers: [
        medianOf(rounds, ({ cores }) => cores.subscribers[0]),
        medianOf(rounds, ({ cores }) => cores.subscribers[1]),
      ],
    },
  };
}
