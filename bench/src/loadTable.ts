/** Requests per second of several producers on one database, with two consumers attached. */
import { type AttachedConsumers, attachConsumers } from './attachedConsumers.ts';
import { cpuSecondsOfTree } from './cpu.ts';
import type { BenchDatabase } from './database.ts';
import { type LoadPoint, type LoadTable, medianOf } from './ingestResults.ts';
import type { LoadGenerator } from './load.ts';
import { type Producer, type ProducerName, startProducer } from './producers.ts';
import { median } from './statistics.ts';

export interface LoadPlan {
  producers: readonly ProducerName[];
  connections: readonly number[];
  rounds: number;
  secondsPerPoint: number;
  generator: LoadGenerator;
  /** The path of the Go original; without it, `go` is left out. */
  go: string | undefined;
}

/**
 * Lets every producer take its turn at each number of connections in each round, so that a slow spell of the machine
 * meets all of them. Every point begins with an empty table, and ends when both consumers have received its rows.
 */
export async function measureLoad(database: BenchDatabase, plan: LoadPlan): Promise<LoadTable> {
  await using stack = new AsyncDisposableStack();
  const insertMs = await timeInserts(database);
  const consumers = await attachConsumers(database.url, database.client);
  stack.defer(() => consumers.stop());
  const producers: Producer[] = [];
  for (const name of plan.producers) {
    if (name === 'go' && plan.go === undefined) continue;
    const producer = await startProducer(name, database.url, plan.go);
    stack.defer(() => producer.stop());
    producers.push(producer);
  }
  const measure = (producer: Producer, connections: number, seconds: number) =>
    measurePoint({ producer, connections, seconds, database, consumers, generator: plan.generator });

  for (const producer of producers) await measure(producer, 64, 1); // until its code is compiled
  const measured: LoadPoint[] = [];
  for (let round = 0; round < plan.rounds; round++) {
    for (const connections of plan.connections) {
      for (const producer of producers) measured.push(await measure(producer, connections, plan.secondsPerPoint));
    }
  }
  const points = plan.connections.flatMap((connections) =>
    producers.map(({ name }) =>
      medians(measured.filter((point) => point.producer === name && point.connections === connections)),
    ),
  );
  const peakMB = producers.find(({ name }) => name === 'ours')!.peakMB();
  return { rounds: plan.rounds, secondsPerPoint: plan.secondsPerPoint, points, peakMB, insertMs };
}

interface PointOptions {
  producer: Producer;
  connections: number;
  seconds: number;
  database: BenchDatabase;
  consumers: AttachedConsumers;
  generator: LoadGenerator;
}

async function measurePoint({ producer, connections, seconds, ...parts }: PointOptions): Promise<LoadPoint> {
  const { database, consumers, generator } = parts;
  await consumers.begin();
  const pids = [producer.pid, database.pid, ...consumers.pids];
  const before = pids.map(cpuSecondsOfTree);
  const load = await generator.run(producer.url, connections, seconds);
  // What the generator took to start and to end is in the time: a core in use is one in use throughout.
  const cores = pids.map((pid, i) => (cpuSecondsOfTree(pid) - before[i]!) / load.seconds);
  const ended = performance.now();
  const rows = await consumers.untilLevel();
  const levelAfter = (performance.now() - ended) / 1_000;
  // At its end the generator breaks off, with a request under way on each connection.
  const expected = producer.inserts ? load.requests : 0;
  if (rows < expected || rows > expected + connections) {
    throw new Error(`${producer.name}: ${load.requests} requests were answered, ${rows} rows are in`);
  }
  return {
    producer: producer.name,
    connections,
    requestsPerSecond: load.requests / load.seconds,
    p50: load.p50,
    p99: load.p99,
    rows,
    levelAfter,
    cores: {
      producer: cores[0]!,
      server: cores[1]!,
      consumers: [cores[2]!, cores[3]!],
      load: load.cpuSeconds / load.seconds,
    },
  };
}

/** Of each figure the median; the rows of all rounds. */
function medians(rounds: readonly LoadPoint[]): LoadPoint {
  return {
    ...rounds[0]!,
    requestsPerSecond: medianOf(rounds, (round) => round.requestsPerSecond),
    p50: medianOf(rounds, ({ p50 }) => p50),
    p99: medianOf(rounds, ({ p99 }) => p99),
    rows: rounds.reduce((sum, { rows }) => sum + rows, 0),
    levelAfter: medianOf(rounds, (round) => round.levelAfter),
    cores: {
      producer: medianOf(rounds, ({ cores }) => cores.producer),
      server: medianOf(rounds, ({ cores }) => cores.server),
      consumers: [
        medianOf(rounds, ({ cores }) => cores.consumers[0]),
        medianOf(rounds, ({ cores }) => cores.consumers[1]),
      ],
      load: medianOf(rounds, ({ cores }) => cores.load),
    },
  };
}

async function timeInserts({ client }: BenchDatabase): Promise<number> {
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    const start = performance.now();
    await client.query("INSERT INTO signals (signal_name, signal_value) VALUES ('test_signal', 1)");
    times.push(performance.now() - start);
  }
  return median(times);
}
