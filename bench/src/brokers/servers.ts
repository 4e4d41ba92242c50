/** A server of each broker on this machine, for as long as the bench runs; those that aren't installed are skipped. */
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { jetstreamManager, StorageType } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { freePort } from '@pg-signals/local/embedded';
import { createClient } from 'redis';
import type { BenchDatabase } from '../database.ts';
import { startPeer } from '../peerProcess.ts';
import { STREAM as NATS_STREAM } from './jetStream.ts';
import type { BrokerName } from './names.ts';
import { STREAM as REDIS_STREAM } from './redisStreams.ts';

export interface BrokerServer {
  readonly broker: BrokerName;
  readonly url: string;
  readonly version: string;
  readonly pid: number;
  /** Drops what was published so far. */
  clear(): Promise<unknown>;
}

/** What is started goes on `stack`. */
export async function startBrokers(database: BenchDatabase, stack: AsyncDisposableStack): Promise<BrokerServer[]> {
  const { rows } = await database.client.query<{ version: string }>("SELECT split_part(version(), ',', 1) AS version");
  const servers: BrokerServer[] = [
    {
      broker: 'pgSignals',
      url: database.url,
      version: rows[0]!.version.replace(/ on .*/, ''),
      pid: database.pid,
      clear: () => database.client.query('TRUNCATE signals'),
    },
  ];
  const redis = installed('redis-server');
  if (redis) {
    servers.push(await startRedis('redisAlways', 'always', redis, stack));
    servers.push(await startRedis('redisEverySecond', 'everysec', redis, stack));
  }
  const nats = installed('nats-server');
  if (nats) servers.push(await startNats(nats, stack));
  return servers;
}

function installed(program: string): string | undefined {
  const { stdout, error } = spawnSync(program, ['--version'], { encoding: 'utf8' });
  if (!error) return `${program} ${/v=?(\d[\d.]*)/.exec(stdout)?.[1] ?? stdout.trim()}`;
  console.log(`Skipped: ${program}, which is not installed`);
  return undefined;
}

async function startRedis(
  broker: BrokerName,
  appendfsync: string,
  version: string,
  stack: AsyncDisposableStack,
): Promise<BrokerServer> {
  const port = await freePort();
  const flags = ['--bind', '127.0.0.1', '--port', `${port}`, '--dir', temporaryFolder(stack), '--save', ''];
  flags.push('--appendonly', 'yes', '--appendfsync', appendfsync);
  const { process, stop } = startPeer('redis-server', flags);
  stack.defer(stop);
  await takesConnections(port);
  const url = `redis://127.0.0.1:${port}`;
  const client = await createClient({ url }).connect();
  stack.defer(() => client.destroy());
  return { broker, url, version, pid: process.pid!, clear: () => client.xTrim(REDIS_STREAM, 'MAXLEN', 0) };
}

async function startNats(version: string, stack: AsyncDisposableStack): Promise<BrokerServer> {
  const port = await freePort();
  const { process, stop } = startPeer('nats-server', [
    '-a',
    '127.0.0.1',
    '-p',
    `${port}`,
    '-js',
    '-sd',
    temporaryFolder(stack),
  ]);
  stack.defer(stop);
  await takesConnections(port);
  const url = `127.0.0.1:${port}`;
  const connection = await connect({ servers: url });
  stack.defer(() => connection.close());
  const { streams } = await jetstreamManager(connection);
  await streams.add({ name: NATS_STREAM, subjects: [NATS_STREAM], storage: StorageType.File });
  return { broker: 'jetStream', url, version, pid: process.pid!, clear: () => streams.purge(NATS_STREAM) };
}

function temporaryFolder(stack: AsyncDisposableStack): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
  stack.defer(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

async function takesConnections(port: number): Promise<void> {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const socket = connectTcp(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(20);
    } finally {
      socket.destroy();
    }
  }
}
