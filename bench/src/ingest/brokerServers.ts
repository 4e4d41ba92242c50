/** A server of each broker on this machine. Those that aren't installed are skipped. */
import { jetstreamManager, StorageType } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { freePort } from '@pg-signals/local/free-port';
import { createClient } from 'redis';
import { type Database, temporaryFolder } from '../database.ts';
import { Program, retry, run } from '../process.ts';
import { type ClientName, STREAM } from './brokerClient.ts';

export interface Broker {
  name: string;
  client: ClientName;
  /** What it promises when it has acknowledged a message. */
  promise: string;
  version: string;
  url: string;
  pid: number;
  /** Drops what was published so far. */
  clear(): Promise<unknown>;
}

/** Starts them; `stack` stops them. */
export async function startBrokers(database: Database, stack: AsyncDisposableStack): Promise<Broker[]> {
  const ours = { name: 'pg-signals, createPublisher', promise: 'committed: flushed to the disk' };
  const brokers: Broker[] = [{ ...database, ...ours, client: 'pgSignals', clear: database.empty }];
  const redis = await installed('redis-server');
  const everySecond = 'flushed every second, so a machine that fails loses about the last one';
  if (redis) {
    brokers.push({ version: redis, ...(await startRedis('always', 'flushed to the disk', stack)) });
    brokers.push({ version: redis, ...(await startRedis('everysec', everySecond, stack)) });
  }
  const nats = await installed('nats-server');
  if (nats) brokers.push({ version: nats, ...(await startNats(stack)) });
  return brokers;
}

async function startRedis(appendfsync: string, flushed: string, stack: AsyncDisposableStack) {
  const [port, folder] = [`${await freePort()}`, stack.use(await temporaryFolder())];
  const flags = ['--bind', '127.0.0.1', '--port', port, '--dir', folder.path, '--save', ''];
  const log = ['--appendonly', 'yes', '--appendfsync', appendfsync];
  const { pid } = stack.use(new Program(['redis-server', ...flags, ...log]));
  const url = `redis://127.0.0.1:${port}`;
  const client = await createClient({ url })
    .on('error', () => {})
    .connect(); // which retries until the server listens
  stack.defer(() => client.destroy());
  const clear = () => client.xTrim(STREAM, 'MAXLEN', 0);
  return {
    name: `Redis Streams, appendfsync ${appendfsync}`,
    client: 'redis' as const,
    promise: `in the log: ${flushed}`,
    url,
    pid,
    clear,
  };
}

async function startNats(stack: AsyncDisposableStack) {
  const [port, folder] = [`${await freePort()}`, stack.use(await temporaryFolder())];
  const flags = ['-a', '127.0.0.1', '-p', port, '-js', '-sd', folder.path];
  const { pid } = stack.use(new Program(['nats-server', ...flags], { stderr: 'ignore' }));
  const url = `127.0.0.1:${port}`;
  const connection = await retry(() => connect({ servers: url }));
  stack.defer(() => connection.close());
  const { streams } = await jetstreamManager(connection);
  await streams.add({ name: STREAM, subjects: [STREAM], storage: StorageType.File });
  const promise = 'in a file: flushed every 2 minutes, so a machine that fails loses what came since';
  return {
    name: 'NATS JetStream, file storage',
    client: 'nats' as const,
    promise,
    url,
    pid,
    clear: () => streams.purge(STREAM),
  };
}

async function installed(program: string): Promise<string | undefined> {
  try {
    return `${program} ${/v=?(\d[\d.]*)/.exec(await run([program, '--version']))![1]}`;
  } catch {
    console.error(`Skipped ${program}: it is not installed`);
    return undefined;
  }
}
