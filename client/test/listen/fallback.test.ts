/** Where LISTEN is not to be had: behind a transaction pooler (a real pgbouncer) and on a standby that is promoted. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrate } from '@pg-signals/db/migrate';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { freePort } from '@pg-signals/local/free-port';
import { copyAsStandby } from '@pg-signals/local/standby';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type TestListener, useListeners, Writer } from '../testListener.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-fallback-'));
chmodSync(directory, 0o755);
let primary: EmbeddedPostgres;

beforeAll(async () => {
  primary = await startEmbeddedPostgres({ directory: path.join(directory, 'primary') });
  await migrate(primary.url);
});
afterAll(async () => {
  await primary.stop();
  rmSync(directory, { recursive: true, force: true });
});
const listeners = useListeners({ url: () => primary.url, proofTimeoutMs: 300 });
const start = (url: string) => listeners.start({ url });

/** Resolves when this listener has a signal that is inserted now: from here on its beginning is behind it. */
async function following(listener: TestListener): Promise<void> {
  const seen = listener.ids.length;
  const [id] = await listeners.writer.insert(1);
  await listener.received(seen + 1);
  expect(listener.ids).toContain(id);
}

const hasPgbouncer = spawnSync('pgbouncer', ['--version']).status === 0;
if (!hasPgbouncer)
  process.stderr.write('skipped: the tests behind pgbouncer, which is not installed (Debian package pgbouncer)\n');

describe.skipIf(!hasPgbouncer)('behind pgbouncer', () => {
  let port: number;
  let bouncer: ChildProcess;
  const ini = path.join(directory, 'pgbouncer.ini');
  const users = path.join(directory, 'users.txt');
  // Like PostgreSQL it refuses to run as root.
  const owner = process.getuid?.() === 0 ? { uid: Number(execFileSync('id', ['-u', 'nobody'])) } : {};

  function configure(poolMode: string): void {
    const { username, password } = new URL(primary.url);
    const lines = [
      '[databases]',
      `signals = host=127.0.0.1 port=${primary.port} user=${username} password=${password}`,
      '[pgbouncer]',
      `pool_mode = ${poolMode}`,
      'listen_addr = 127.0.0.1',
      `listen_port = ${port}`,
      'unix_socket_dir =',
      // Other users of the machine can connect too, and this is a superuser.
      'auth_type = scram-sha-256',
      `auth_file = ${users}`,
    ];
    for (const [file, text] of [
      [ini, lines.join('\n')],
      [users, `"${username}" "${password}"`],
    ] as const) {
      writeFileSync(file, `${text}\n`, { mode: 0o600 });
      if (owner.uid !== undefined) chownSync(file, owner.uid, -1);
    }
  }

  beforeAll(async () => {
    port = await freePort();
  });
  afterEach(async () => {
    await listeners.stop();
    bouncer.kill('SIGQUIT');
    await new Promise((resolve) => bouncer.once('exit', resolve));
  });

  async function startBouncer(poolMode: string): Promise<string> {
    configure(poolMode);
    bouncer = spawn('pgbouncer', [ini], { ...owner, stdio: ['ignore', 'ignore', 'pipe'] });
    await new Promise<void>((resolve, reject) => {
      let log = '';
      bouncer.stderr!.on('data', (chunk) => {
        log += chunk;
        if (log.includes('process up')) resolve();
      });
      bouncer.once('exit', (code) => reject(new Error(`pgbouncer ended with code ${code}: ${log}`)));
    });
    const url = new URL(primary.url);
    url.port = String(port);
    return url.href;
  }

  test('in transaction mode it says so, reads the table, and listens by itself when the mode is changed', async () => {
    const listener = start(await startBouncer('transaction'));
    await listener.happened('polling');
    expect(listener.log).toContain(
      'WARN No notifications here, reading the table instead reason=a pooler in transaction mode stands before the server: point DATABASE_URL at the server itself, or set pool_mode=session',
    );
    await listener.happened('reads');
    for (let batch = 0; batch < 5; batch++) await listeners.writer.insert(100);
    await listeners.writer.insert(20, JSON.stringify({ text: 'x'.repeat(10_000) }));
    await listener.received(520);
    expect(listener.counts.listening).toBeUndefined();
    expect(listener.listener.proofAgeMs).toBeLessThan(10_000);

    configure('session');
    bouncer.kill('SIGHUP');
    await listener.listening();
    await listeners.writer.insert(10);
    await listener.received(530);
    expect(listener.ids).toEqual((await listeners.writer.committed()).slice(-530));
    expect(listener.counts.polling).toBe(1);
  });

  test('in transaction mode it sends no LISTEN, which would stay behind on a connection that others use', async () => {
    const { client } = listeners.writer;
    const logStatements = async (which: string) => {
      await client.query(`ALTER SYSTEM SET log_statement = '${which}'`);
      await client.query('SELECT pg_reload_conf()');
    };
    await logStatements('all');
    const listener = listeners.start({ url: await startBouncer('transaction'), pollMs: 60_000 });
    await listener.happened('connecting', 5);
    await logStatements('none');
    expect(primary.log()).toContain('SELECT pg_backend_pid()');
    expect(primary.log()).not.toContain('LISTEN');
  });

  test('in session mode it listens', async () => {
    const listener = start(await startBouncer('session'));
    await listener.listening();
    await following(listener);
  });
});

describe('on a standby', () => {
  let standby: EmbeddedPostgres;
  let copies = 0;

  /** A streaming standby of the primary, made from a copy of its stopped data. */
  async function startStandby(): Promise<EmbeddedPostgres> {
    const { port } = primary;
    const copy = path.join(directory, `standby-${++copies}`);
    await primary.stop();
    copyAsStandby(path.join(directory, 'primary'), copy, primary.url);
    primary = await startEmbeddedPostgres({ directory: path.join(directory, 'primary'), port });
    await listeners.writer.end();
    listeners.writer = await Writer.connect(primary.url);
    return startEmbeddedPostgres({ directory: copy });
  }

  /** Resolves when the standby has replayed all that the primary has committed. */
  async function caughtUp(which = standby): Promise<void> {
    const { rows } = await listeners.writer.client.query<{ lsn: string }>(
      'SELECT pg_current_wal_flush_lsn()::text AS lsn',
    );
    const other = await Writer.connect(which.url);
    for (;;) {
      const { rows: replayed } = await other.client.query('SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn AS done', [
        rows[0]!.lsn,
      ]);
      if (replayed[0].done) break;
      await other.client.query('SELECT pg_sleep(0.01)');
    }
    await other.end();
  }

  /** Lets the standby receive nothing any more. */
  async function isolate(): Promise<Writer> {
    const other = await Writer.connect(standby.url);
    await other.client.query(`ALTER SYSTEM SET primary_conninfo = ''`);
    await other.client.query('SELECT pg_reload_conf()');
    for (let gone = false; !gone; ) {
      const { rows } = await other.client.query('SELECT count(*)::int AS receivers FROM pg_stat_wal_receiver');
      gone = rows[0].receivers === 0;
    }
    return other;
  }

  async function promote(): Promise<Writer> {
    const other = await Writer.connect(standby.url);
    await other.client.query('SELECT pg_promote()');
    return other;
  }

  beforeEach(async () => {
    standby = await startStandby();
  });
  afterEach(async () => {
    await listeners.stop();
    await standby.stop();
  });

  test('it says so, reads the table exactly once, and listens when the standby is promoted', async () => {
    const open = await Writer.connect(primary.url);
    await open.client.query('BEGIN');
    const straggler = await open.insert(1);
    const listener = start(standby.url);
    await listener.happened('polling');
    expect(listener.log).toContain(
      'WARN No notifications here, reading the table instead reason=this server is a standby',
    );
    await listener.happened('reads');
    await caughtUp();
    for (let batch = 0; batch < 5; batch++) {
      await listeners.writer.insert(100);
      await listener.received(100 * (batch + 1));
    }
    await open.client.query('COMMIT');
    await listener.received(501);
    expect(listener.ids).toContain(straggler[0]);
    await open.end();
    await caughtUp();
    const promoted = await promote();
    const more = await promoted.insert(10);
    await listener.listening();
    more.push(...(await promoted.insert(10)));
    await listener.received(521);
    expect(listener.ids.slice(-20)).toEqual(more);
    expect(new Set(listener.ids).size).toBe(521);
    expect(listener.counts.serverChanged).toBeUndefined();
    await promoted.end();
  });

  test('a transaction older than the beginning is delivered when it commits, and what committed before is not', async () => {
    const open = await listeners.another();
    await open.client.query('BEGIN');
    const straggler = await open.insert(1);
    await listeners.writer.insert(3);
    await caughtUp();
    const listener = start(standby.url);
    await listener.happened('reads');
    await open.client.query('COMMIT');
    const later = await listeners.writer.insert(2);
    await listener.received(3);
    expect(listener.ids).toEqual([...straggler, ...later]);
  });

  test('moved to a standby that lags behind, it repeats nothing when that comes level', async () => {
    const { url, switchTo, close } = await startSwitch();
    const listener = start(url);
    await listener.listening();
    const lagging = await Writer.connect(standby.url);
    await caughtUp();
    await lagging.client.query('SELECT pg_wal_replay_pause()');
    for (let round = 0; round < 20; round++) await listeners.writer.insert(1);
    await listener.received(20);
    switchTo(standby.port);
    await listener.happened('polling');
    await listener.happened('reads', (listener.counts.reads ?? 0) + 3);
    await lagging.client.query('SELECT pg_wal_replay_resume()');
    const more = await listeners.writer.insert(5);
    await listener.received(25);
    expect(listener.ids.slice(20)).toEqual(more);
    expect(listener.counts.serverChanged).toBeUndefined();
    await lagging.end();
    await listeners.stop();
    close();
  });

  test('after a failover that lost nothing the cursor holds: every signal once', async () => {
    const { url, switchTo, close } = await startSwitch();
    const listener = start(url);
    await listener.listening();
    await listeners.writer.insert(100);
    await listener.received(100);
    // Without a proof begun after the last signal the consumer can't know that the standby has that signal too.
    await listener.happened('latency', (listener.counts.latency ?? 0) + 3);
    await caughtUp();
    switchTo(standby.port);
    const promoted = await promote();
    const more = await promoted.insert(50);
    await listener.listening(2);
    await listener.received(150);
    expect(listener.ids.slice(100)).toEqual(more);
    expect(listener.counts.serverChanged).toBeUndefined();
    await promoted.end();
    await listeners.stop();
    close();
  });

  test('an address that leads to one standby or the other, at random, delivers every row once', async () => {
    const { proxy, url, close } = await startSwitch();
    proxy.target = standby.port;
    const lagging = await startStandby();
    const paused = await Writer.connect(lagging.url);
    await listeners.writer.insert(1);
    await caughtUp(lagging);
    await paused.client.query('SELECT pg_wal_replay_pause()');
    let random = 1;
    proxy.choose = () => {
      random = (random * 48_271) % 2_147_483_647; // minimal standard generator of Park and Miller
      return random % 2 ? standby.port : lagging.port;
    };
    const listener = listeners.start({ url, maxUses: 1 });
    await listener.happened('reads');
    const ids: number[] = [];
    for (let batch = 0; batch < 5; batch++) {
      ids.push(...(await listeners.writer.insert(50)));
      await listener.received(ids.length);
    }
    await paused.client.query('SELECT pg_wal_replay_resume()');
    ids.push(...(await listeners.writer.insert(1)));
    await listener.received(ids.length);
    expect(listener.ids).toEqual(ids);
    await paused.end();
    await listeners.stop();
    await lagging.stop();
    close();
  });

  test('a large row is read where it was notified, not on a standby that may lack it', async () => {
    const { proxy, url, close } = await startSwitch();
    const lagging = await Writer.connect(standby.url);
    await caughtUp();
    await lagging.client.query('SELECT pg_wal_replay_pause()');
    const listener = listeners.start({ url, maxUses: 1, proofIntervalMs: 60_000 });
    await listener.listening();
    await listener.happened('reads');
    proxy.target = standby.port;
    const ids = await listeners.writer.insert(3, JSON.stringify({ text: 'x'.repeat(10_000) }));
    await listener.happened('readFailed');
    proxy.target = primary.port;
    await listener.received(3);
    expect([listener.ids, listener.counts.rowMissing]).toEqual([ids, undefined]);
    await lagging.client.query('SELECT pg_wal_replay_resume()');
    await lagging.end();
    await listeners.stop();
    close();
  });

  test('a connection to the old server is replaced, though rows of that server still come on it', async () => {
    const isolated = await isolate();
    await isolated.client.query('SELECT pg_promote()');
    const { proxy, url, close } = await startSwitch();
    const listener = listeners.start({ url, maxUses: 1 });
    await listener.listening();
    let over = false;
    const writing = (async () => {
      while (!over) await listeners.writer.insert(1);
    })();
    proxy.target = standby.port;
    await listener.listening(2);
    over = true;
    await writing;
    const [id] = await isolated.insert(1);
    await listener.until(() => listener.ids.includes(id!));
    expect(listener.retries[0]!.reason).toBe('the connection answers, but no marker came back on it');
    await isolated.end();
    await listeners.stop();
    close();
  });

  test('a catch-up that is cut off and goes on at a standby delivers no row twice', async () => {
    const { url, switchTo, cutOff, close } = await startSwitch();
    const cut = Promise.withResolvers<void>();
    let count = 0;
    const listener = listeners.start({
      url,
      callback: () => {
        if (++count === 1_000) {
          switchTo(standby.port);
          return cut.promise;
        }
        return undefined;
      },
    });
    await listener.listening();
    const open = await listeners.another();
    await open.client.query('BEGIN');
    const straggler = await open.insert(1);
    const connectAgain = cutOff();
    await listeners.writer.insert(4_000);
    await open.client.query('COMMIT');
    connectAgain();
    await listener.received(1_000);
    await caughtUp();
    cut.resolve();
    const [last] = await listeners.writer.insert(1);
    await listener.until(() => listener.ids.includes(last!));
    expect([listener.ids.length, new Set(listener.ids).size]).toEqual([4_002, 4_002]);
    expect(listener.ids).toContain(straggler[0]);
    await listeners.stop();
    close();
  });

  test('a catch-up that is cut off goes on where it was, though a standby that lags behind answered in between', async () => {
    const { url, switchTo, cutOff, close } = await startSwitch();
    const cut = Promise.withResolvers<void>();
    let count = 0;
    const listener = listeners.start({
      url,
      maxUses: 1,
      callback: () => {
        if (++count === 1_000) {
          switchTo(standby.port);
          return cut.promise;
        }
        return undefined;
      },
    });
    await listener.listening();
    const lagging = await Writer.connect(standby.url);
    await caughtUp();
    await lagging.client.query('SELECT pg_wal_replay_pause()');
    const connectAgain = cutOff();
    await listeners.writer.insert(4_000);
    connectAgain();
    await listener.received(1_000);
    cut.resolve();
    await listener.happened('polling');
    await listener.happened('reads', (listener.counts.reads ?? 0) + 3);
    switchTo(primary.port);
    const [last] = await listeners.writer.insert(1);
    await listener.until(() => listener.ids.includes(last!));
    await lagging.client.query('SELECT pg_wal_replay_resume()');
    await lagging.end();
    expect([listener.ids.length, new Set(listener.ids).size]).toEqual([4_001, 4_001]);
    await listeners.stop();
    close();
  });

  test('after a failover to a server that shares nothing with it, it reads the table from the start', async () => {
    const isolated = await isolate();
    const { url, switchTo, close } = await startSwitch();
    // The standby lacks these, so its next transactions have the same numbers as they.
    for (let round = 0; round < 20; round++) await listeners.writer.insert(1);
    const listener = listeners.start({ url });
    await listener.listening();
    switchTo(standby.port);
    await isolated.client.query('SELECT pg_promote()');
    const ids: number[] = [];
    for (let round = 0; round < 5; round++) ids.push(...(await isolated.insert(1)));
    await listener.listening(2);
    ids.push(...(await isolated.insert(1)));
    await listener.until(() => ids.every((id) => listener.ids.includes(id)));
    expect(listener.log).toContain('it lacks all that was delivered: reading its table from the start');
    await isolated.end();
    await listeners.stop();
    close();
  });

  test('after a failover that lost commits it goes back to a safe point and says so, rather than skip', async () => {
    const { url, switchTo, close } = await startSwitch();
    const listener = start(url);
    await listener.listening();
    const shared = await listeners.writer.insert(10);
    await listener.received(10);
    await caughtUp();
    // What the primary commits now is lost with it, but was delivered.
    const cut = await isolate();
    for (let round = 0; round < 20; round++) await listeners.writer.insert(1);
    await listener.received(30);
    switchTo(standby.port);
    await cut.client.query('SELECT pg_promote()');
    // Their transaction numbers are given out again, and these rows must not be taken for those.
    const more: number[] = [];
    for (let round = 0; round < 10; round++) more.push(...(await cut.insert(1)));
    await listener.happened('serverChanged');
    expect(listener.log).toContain(
      'WARN The server has changed, reading again from a safe point: some rows may come twice',
    );
    await listener.listening(2);
    more.push(...(await cut.insert(5)));
    await listener.until(() => more.every((id) => listener.ids.slice(30).includes(id)));
    expect(listener.ids.slice(0, 10)).toEqual(shared);
    await cut.end();
    await listeners.stop();
    close();
  });
});

/** An address in front of the primary that can be pointed at another server, as a failover does. */
async function startSwitch() {
  const proxy = new FaultyProxy(primary.port);
  await proxy.start();
  const url = new URL(primary.url);
  url.port = String(proxy.port);
  return {
    proxy,
    url: url.href,
    switchTo(port: number) {
      proxy.target = port;
      proxy.cut();
    },
    /** Breaks connections off, and takes no new ones until the returned function is called. */
    cutOff() {
      const open = proxy.block('connect');
      proxy.cut();
      return open;
    },
    close: () => proxy.close(),
  };
}
