/** Requests per second of several producers on one database, with two consumers attached. */
import type { Database } from '../database.ts';
import { print } from '../report.ts';
import type { Service } from '../services.ts';
import { type Figures, inTurns, median, medians, ROUNDS, timed } from '../statistics.ts';
import { table } from '../table.ts';
import { coresDuring, memoryMB } from '../usage.ts';
import { attachConsumers } from './consumers.ts';
import { generateLoad } from './generator.ts';
import { PRODUCERS } from './producers.ts';

/** `ingest`: the length of each load, in s. Whole seconds, as wrk takes them. */
export const SECONDS_PER_POINT = Number(process.env.SECONDS_PER_POINT ?? 2);

/** The figures of each producer at each number of connections, and the most memory that ours ever had. */
export interface Load {
  connections: Record<number, Record<string, Figures>>;
  peakMB: number;
}

export async function measureLoad(
  database: Database,
  title: string,
  counts: readonly number[],
  producers: readonly string[],
): Promise<Load> {
  print(`${title}; medians of ${ROUNDS} rounds of ${SECONDS_PER_POINT} s\n${await timeInsert(database)}`);
  await using consumers = await attachConsumers(database);
  await using stack = new AsyncDisposableStack();
  const services: Record<string, Service> = {};
  const names = producers.filter((name) => name in PRODUCERS);
  for (const name of names) {
    services[name] = stack.use(await PRODUCERS[name]!(database.url));
    await measure(name, 64, 1); // until its code is compiled
  }
  const load: Load = { connections: {}, peakMB: 0 };
  for (const count of counts) {
    const rows = medians(await inTurns(names, ROUNDS, (name) => measure(name, count, SECONDS_PER_POINT)));
    print(table(`${count} connection${count === 1 ? '' : 's'}`, rows));
    load.connections[count] = rows;
  }
  load.peakMB = memoryMB(services.ours!.pid, 'VmHWM');
  return load;

  /** A point begins with an empty table, and ends when both consumers have received its rows. */
  async function measure(name: string, connections: number, seconds: number): Promise<Figures> {
    const { url, pid } = services[name]!;
    await consumers.begin();
    const pids = { 'cores: producer': pid, server: database.pid, ...consumers.pids };
    const [{ cpuSeconds, ...result }, cores] = await coresDuring(pids, () =>
      generateLoad(`${url}/ingest`, connections, seconds),
    );
    const { rows, seconds: after } = await consumers.untilLevel();
    // At its end the generator breaks off, with a request under way on each connection.
    const expected = name.includes('no database') ? 0 : result.requests;
    if (rows < expected || rows > expected + connections) {
      throw new Error(`${name}: ${result.requests} requests were answered, ${rows} rows are in`);
    }
    return {
      'requests/s': result.requests / result.seconds,
      'p50 ms': result.p50,
      'p99 ms': result.p99,
      'rows = received by both': rows,
      'after s': after,
      ...cores,
      load: cpuSeconds / result.seconds,
    };
  }
}

async function timeInsert({ client }: Database): Promise<string> {
  const times: number[] = [];
  for (let i = 0; i < 50; i++) {
    const insert = "INSERT INTO signals (signal_name, signal_value) VALUES ('test_signal', 1)";
    times.push(await timed(() => client.query(insert)));
  }
  return `One INSERT alone takes ${median(times).toFixed(2)} ms`;
}
