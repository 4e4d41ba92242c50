/** The embedded PostgreSQL: who can reach it, and what becomes of its data. */
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { type EmbeddedPostgres, PortInUseError, startEmbeddedPostgres } from '../src/embedded.ts';
import { readableByOther } from './otherUser.ts';

const isRoot = process.getuid?.() === 0;
if (!isRoot) console.log('skipped: what another user can read of an embedded PostgreSQL, since only root can try');

const folder = mkdtempSync(path.join(tmpdir(), 'pg-signals-embedded-'));
const directory = path.join(folder, 'data of ours');
let postgres: EmbeddedPostgres;

beforeAll(async () => {
  chmodSync(folder, 0o755);
  postgres = await startEmbeddedPostgres({ directory, settings: { fsync: 'off' } });
});
afterAll(async () => {
  await postgres?.stop();
  rmSync(folder, { recursive: true, force: true });
});

async function connect(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  await client.end();
}

test('takes no password but its own, which is another one for other data', async () => {
  await connect(postgres.url);
  const own = new URL(postgres.url);
  for (const [user, password] of [
    ['signals', 'signals'],
    ['postgres', 'postgres'],
    [own.username, own.username],
    [own.username, ''],
  ]) {
    const url = new URL(own);
    [url.username, url.password] = [user!, password!];
    await expect(connect(url.href), `${user}:${password}`).rejects.toThrow(/password/);
  }
  const other = await startEmbeddedPostgres({ directory: path.join(folder, 'other'), settings: { fsync: 'off' } });
  await other.stop();
  expect(new URL(other.url).password).not.toBe(own.password);
});

describe.skipIf(!isRoot)('to another user of the machine', () => {
  test('shows no file, also where the folder was open before', async () => {
    expect(readdirSync(directory)).toContain('data');
    expect(readableByOther(directory)).toEqual([]);
    const open = path.join(folder, 'open');
    mkdirSync(open, { mode: 0o755 });
    chmodSync(open, 0o777);
    const server = await startEmbeddedPostgres({ directory: open, settings: { fsync: 'off' } });
    await server.stop();
    expect(readableByOther(open)).toEqual([]);
  });
});

test('refuses data of the time before the random password, and says what to type', async () => {
  const older = path.join(folder, 'older');
  mkdirSync(path.join(older, 'data'), { recursive: true });
  writeFileSync(path.join(older, 'data/PG_VERSION'), '18\n');
  await expect(startEmbeddedPostgres({ directory: older })).rejects.toThrow(
    `The database in ${older} has the password that earlier versions gave to every database. Remove it with its signals, and the next start makes a new one: rm -r '${older}'`,
  );
});

/** Listens until the end of the test. */
async function listenOn(port: number): Promise<Server> {
  const server = createServer().listen(port, '127.0.0.1');
  onTestFinished(() => void server.close());
  await once(server, 'listening');
  return server;
}

test('says that its port is taken, and sends its password to no program that listens there', async () => {
  const stranger = await listenOn(0);
  let connections = 0;
  stranger.on('connection', (socket) => {
    connections += 1;
    socket.destroy();
  });
  const { port } = stranger.address() as { port: number };
  const starting = startEmbeddedPostgres({ directory: path.join(folder, 'taken'), port });
  await expect(starting).rejects.toThrow(PortInUseError);
  expect(connections).toBe(0);
});

test.skipIf(process.platform !== 'linux')(
  'where the free port is taken before it listens, it takes another',
  async () => {
    const bin = path.join(folder, 'bin');
    mkdirSync(bin);
    chmodSync(bin, 0o777);
    const real = path.dirname(readlinkSync(`/proc/${postgres.pid}/exe`));
    symlinkSync(path.join(real, 'initdb'), path.join(bin, 'initdb'));
    // The real server, which starts when the test has taken its port.
    const script = `#!/bin/sh
    echo "$@" >${bin}/new && mv ${bin}/new ${bin}/flags
    until [ -e ${bin}/taken ]; do sleep 0.02; done
    exec ${real}/postgres "$@"`;
    writeFileSync(path.join(bin, 'postgres'), script, { mode: 0o755 });
    const starting = startEmbeddedPostgres({ directory: path.join(folder, 'late'), bin, settings: { fsync: 'off' } });
    const flags = path.join(bin, 'flags');
    await expect.poll(() => existsSync(flags), { timeout: 20_000 }).toBe(true);
    const port = Number(/ port=(\d+)/.exec(readFileSync(flags, 'utf8'))![1]);
    await listenOn(port);
    writeFileSync(path.join(bin, 'taken'), '');
    const server = await starting;
    onTestFinished(() => server.stop());
    await connect(server.url);
    expect(server.port).not.toBe(port);
  },
);
