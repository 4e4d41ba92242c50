/** The ways in which a connection or a server fails, for real. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { migrate } from '@pg-signals/db/migrate';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { afterAll, afterEach, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest';
import { type TestListener, type TestListenerOptions, useListeners, Writer } from '../testListener.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-faults-'));
let server: EmbeddedPostgres;
let proxy: FaultyProxy;

const start = (port?: number) =>
  startEmbeddedPostgres({ directory, settings: { max_connections: '15' }, ...(port === undefined ? {} : { port }) });

beforeAll(async () => {
  server = await start();
  await migrate(server.url);
});
afterAll(async () => {
  await server.stop();
  rmSync(directory, { recursive: true, force: true });
});
const listeners = useListeners({ url: () => server.url, proofTimeoutMs: 300 });
beforeEach(async () => {
  proxy = new FaultyProxy(server.port);
  await proxy.start();
});
afterEach(async () => {
  await listeners.stop();
  proxy.close();
});

function listening(options: Partial<TestListenerOptions> = {}): Promise<TestListener> {
  const url = new URL(server.url);
  url.port = String(proxy.port);
  return listeners.listening({ url: url.href, ...options });
}

/** The listener has every signal of the table from `since` on, once. */
async function complete(listener: TestListener, since = 0): Promise<void> {
  const [last] = await listeners.writer.insert(1);
  await listener.received((await listeners.writer.committed()).filter((id) => id > since).length);
  expect(listener.ids).toContain(last);
  const committed = (await listeners.writer.committed()).filter((id) => id > since);
  expect(listener.ids.toSorted((a, b) => a - b)).toEqual(committed.toSorted((a, b) => a - b));
}

const lastId = async () => (await listeners.writer.committed()).reduce((a, b) => Math.max(a, b), 0);

test.each([
  ['both ways', ['toServer', 'toClient']],
  ['towards the client alone', ['toClient']],
  ['towards the server alone', ['toServer']],
] as const)('a network that goes silent %s is noticed by the proof, and nothing is lost', async (_name, ways) => {
  const since = await lastId();
  const listener = await listening();
  await listeners.writer.insert(2);
  const restore = proxy.block(...ways);
  await listener.happened('retrying');
  await listeners.writer.insert(5);
  restore();
  await listener.listening(2);
  await complete(listener, since);
});

test('a connection that the network forgot is replaced, and nothing is lost', async () => {
  const since = await lastId();
  const listener = await listening();
  proxy.forget();
  await listeners.writer.insert(5);
  await listener.listening(2);
  await complete(listener, since);
  // The others of the pool are as dead; finding that out one by one would cost an attempt for each.
  expect(listener.counts.retrying).toBeGreaterThan(0);
});

test('backends killed in a loop lose nothing', async () => {
  const since = await lastId();
  const listener = await listening();
  for (let round = 0; round < 20; round++) {
    await listeners.writer.killBackends();
    await listeners.writer.insert(10);
  }
  await complete(listener, since);
});

test('a server that accepts and never answers costs one line an attempt, each saying what comes next', async () => {
  const since = await lastId();
  const listener = await listening();
  const answer = proxy.block('connect', 'toClient', 'toServer');
  proxy.cut();
  await listener.until(() => listener.retries.some(({ attempt }) => attempt === 4));
  await listeners.writer.insert(5);
  answer();
  await listener.listening(2);
  const attempts = listener.retries.map(({ attempt }) => attempt);
  expect(attempts).toEqual(attempts.map((_, at) => at + 1));
  expect(listener.log.match(/WARN Not listening, connecting again reason=.+ delay_ms=\d+ attempt=\d+\n/g)).toHaveLength(
    attempts.length,
  );
  await complete(listener, since);
});

test('too many connections at the moment of reconnecting are waited out', async () => {
  const since = await lastId();
  const listener = await listening();
  const greedy: Writer[] = [];
  const refused = () =>
    listener.retries.some(({ reason }) => /too many clients|remaining connection slots/.test(reason));
  // Whoever is quicker gets the place of a connection that was killed, so it may take more than one round.
  while (!refused()) {
    await listeners.writer.killBackends();
    await Writer.connect(server.url).then(
      (taken) => greedy.push(taken),
      () => {},
    );
  }
  await listeners.writer.insert(5);
  await Promise.all(greedy.map((each) => each.end()));
  await complete(listener, since);
});

test.each(['immediate', 'fast'] as const)('an %s shutdown and restart of the server loses nothing', async (mode) => {
  const since = await lastId();
  const listener = await listening();
  await listeners.writer.insert(3);
  await server.stop(mode);
  server = await start(server.port);
  listeners.writer = await Writer.connect(server.url);
  await listeners.writer.insert(3);
  await complete(listener, since);
  expect(listener.counts.serverChanged).toBeUndefined();
});

test('restarts in the middle of a catch-up let it go on where it was', async () => {
  const since = await lastId();
  let restart: (() => void) | undefined;
  const listener = await listening({
    callback: () => {
      if (listener.ids.length % 2_000 === 0) restart?.();
    },
  });
  const resume = proxy.block('connect', 'toClient');
  proxy.cut();
  await listeners.writer.client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT 'missed', n FROM generate_series(1, 10000) AS n`,
  );
  let restarts = 0;
  let restarting = Promise.resolve();
  restart = () => {
    restarting = restarting.then(async () => {
      restarts++;
      await server.stop('immediate');
      server = await start(server.port);
    });
  };
  resume();
  await listener.received(10_000);
  await restarting;
  listeners.writer = await Writer.connect(server.url);
  expect(restarts).toBeGreaterThanOrEqual(3);
  await complete(listener, since);
});

/** Transactions that take a number and end without reaching the disk. */
async function unflushedTransactions(): Promise<void> {
  await listeners.writer.client.query('SET synchronous_commit = off');
  await listeners.writer.client.query('BEGIN; SELECT pg_current_xact_id(); ROLLBACK');
  await listeners.writer.client.query("BEGIN; SELECT pg_current_xact_id(); NOTIFY elsewhere, 'x'; COMMIT");
  await listeners.writer.client.query('SET synchronous_commit = on');
}

async function flushEvery(delay: string): Promise<void> {
  await listeners.writer.client.query(`ALTER SYSTEM SET wal_writer_delay = '${delay}'`);
  await listeners.writer.client.query('SELECT pg_reload_conf()');
}

const crashes: Record<string, () => Promise<void>> = {
  async 'a crash of the server'() {
    await server.stop('immediate');
    server = await start(server.port);
  },
  /** PostgreSQL then restarts all backends with fresh memory, and `pg_postmaster_start_time()` stays what it was. */
  async 'a backend killed with SIGKILL'() {
    const victim = await Writer.connect(server.url);
    const { rows } = await victim.client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
    const gone = new Promise((resolve) => listeners.writer.client.once('end', resolve));
    process.kill(rows[0]!.pid, 'SIGKILL');
    await gone;
  },
};

/** Stops the process that flushes what no commit waits for; returns what lets it go on, for the crash to end it. */
async function freezeWalWriter(): Promise<() => void> {
  const { rows } = await listeners.writer.client.query<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'`,
  );
  const { pid } = rows[0]!;
  process.kill(pid, 'SIGSTOP');
  const thaw = () => {
    try {
      process.kill(pid, 'SIGCONT');
    } catch {
      // it has ended
    }
  };
  onTestFinished(thaw); // a server with a frozen process never stops
  return thaw;
}

/** A connection as soon as the server takes one again. */
async function reconnected(): Promise<Writer> {
  for (;;) {
    try {
      return await Writer.connect(server.url);
    } catch {
      await sleep(20); // it is recovering
    }
  }
}

test.each(Object.keys(crashes).flatMap((crash) => ['200ms', '10s'].map((delay) => [crash, delay] as const)))(
  'a transaction number given out again after %s hides no row, with a WAL that is flushed every %s',
  async (crash, delay) => {
    await flushEvery(delay);
    const since = await lastId();
    const listener = await listening({ proofIntervalMs: 10 });
    for (let round = 0; round < 3; round++) {
      await unflushedTransactions();
      await listener.happened('latency', (listener.counts.latency ?? 0) + 2);
      await crashes[crash]!();
      listeners.writer = await reconnected();
      await listeners.writer.insert(1);
    }
    await complete(listener, since);
  },
);

test.each(Object.keys(crashes))('%s right after a catch-up hides no row', async (crash) => {
  const since = await lastId();
  const listener = await listening({ proofIntervalMs: 60_000 });
  const open = proxy.block('connect');
  proxy.cut();
  await listeners.writer.insert(1);
  const thaw = await freezeWalWriter();
  await unflushedTransactions();
  open();
  await listener.received(1); // the snapshot that it read to counts those transactions as over
  const crashed = crashes[crash]!();
  await sleep(200); // until it has been signalled to end
  thaw();
  await crashed;
  listeners.writer = await reconnected();
  await listeners.writer.insert(1);
  // Past the place where the WAL ended before the crash, so that it does not show the loss by being shorter.
  await listeners.writer.client.query(`SELECT pg_logical_emit_message(true, 'test', repeat('x', 100000))`);
  await complete(listener, since);
  expect(listener.counts.serverChanged).toBeUndefined();
});

test('a connection that is lost in the middle of a transaction delivers the rest of it once', async () => {
  const since = await lastId();
  const listener = await listening({ callback: () => new Promise((resolve) => setImmediate(resolve)) });
  for (const lostAfter of [1_000, 4_000, 8_000]) {
    const inserted = listeners.writer.insert(3_000);
    await listener.received(lostAfter);
    await (await listeners.another()).killBackends();
    await inserted;
  }
  await complete(listener, since);
});

test('while the server stalls, attempts take no more sessions than the pool allows', async () => {
  const since = await lastId();
  const setStandby = async (client: Writer, name: string) => {
    await client.client.query(`ALTER SYSTEM SET synchronous_standby_names = '${name}'`);
    await client.client.query('SELECT pg_reload_conf()');
  };
  const observer = await listeners.another();
  const [a, b] = [await listening({ max: 3 }), await listening({ max: 3 })];
  await setStandby(observer, 'missing');
  // Its commit waits for the standby, and holds the lock that every commit with a notification takes.
  const stalled = listeners.writer.insert(1);
  let sessions: number[];
  try {
    await Promise.all([a.happened('retrying', 6), b.happened('retrying', 6)]);
    sessions = await observer.backends();
  } finally {
    await setStandby(observer, '');
  }
  // One more each: a session that was given up may still be on its way out.
  expect(sessions.length).toBeLessThanOrEqual(2 * 4);
  await stalled;
  for (const listener of [a, b]) await complete(listener, since);
});

test('an older copy of the data, written past the old place since, hides none of its new rows', async () => {
  const data = path.join(directory, 'data');
  const copy = path.join(directory, 'copy');
  const stopped = async (work: () => void) => {
    await server.stop();
    work();
    server = await start(server.port);
    listeners.writer = await Writer.connect(server.url);
  };
  await listeners.writer.insert(5);
  await stopped(() => execFileSync('cp', ['-a', data, copy]));
  const listener = await listening();
  const lost = await listeners.writer.insert(50);
  await listener.received(50);
  await listener.happened('latency', (listener.counts.latency ?? 0) + 3); // proved, and on disk
  const connectAgain = proxy.block('connect');
  proxy.cut();
  await stopped(() => {
    rmSync(data, { recursive: true });
    renameSync(copy, data);
  });
  const again: number[] = [];
  for (let row = 0; row < 100; row++)
    again.push(...(await listeners.writer.insert(1, `{"copy": "${'x'.repeat(1_000)}"}`)));
  expect(again).toEqual(expect.arrayContaining(lost));
  connectAgain();
  await listener.until(() => listener.ids.includes(again.at(-1)!));
  const delivered = listener.signals.filter(({ attributes }) => 'copy' in attributes).map(({ id }) => id);
  expect(delivered).toEqual(again);
  expect(listener.log).toContain('it is an older copy of the one before');
});

test('LISTEN that fails on notifications of the past is repaired', async () => {
  const { client } = listeners.writer;
  // More pages than are kept in memory wait for a listener that never reads them, and then their first file is gone.
  const [lagging, notifier] = [await listeners.another(), await listeners.another()];
  await lagging.client.query('LISTEN elsewhere');
  await lagging.client.query('BEGIN');
  await lagging.client.query('SELECT 1');
  await notifier.client.query(
    `SELECT pg_notify('elsewhere', n || repeat('x', 7000)) FROM generate_series(1, 300) AS n`,
  );
  const ended = new Promise((resolve) => lagging.client.once('end', resolve));
  await client.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT 1'`);
  await ended;
  const queue = path.join(directory, 'data', 'pg_notify');
  rmSync(path.join(queue, readdirSync(queue).sort()[0]!));
  const since = await lastId();
  const listener = await listening();
  expect(listener.counts.retrying).toBeGreaterThan(0);
  expect(listener.log).toContain('WARN LISTEN failed on old notifications, dropping those that nobody waits for');
  await complete(listener, since);
});

test('stopped while its connection is being opened, it stops', async () => {
  const url = new URL(server.url);
  url.port = String(proxy.port);
  const open = proxy.block('toClient');
  const listener = listeners.start({ url: url.href });
  await listener.happened('connecting');
  const stopped = listener.stop();
  open();
  await stopped;
  expect(listener.counts.listening).toBeUndefined();
});
