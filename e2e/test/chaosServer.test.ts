/** The faults of `make chaos` against the server do what their names say. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { ChaosServer } from '../src/chaos/server.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-chaos-test-'));
const server = new ChaosServer(directory, 20);

beforeAll(() => server.start());
afterAll(async () => {
  await server.close();
  rmSync(directory, { recursive: true, force: true });
});

async function startTime(): Promise<string> {
  const client = await server.connect('test');
  const { rows } = await client.query<{ at: string }>('SELECT pg_postmaster_start_time()::text AS at');
  await client.end();
  return rows[0]!.at;
}

test('a killed backend ends every session, while the start time of the server stays the same', async () => {
  const before = await startTime();
  const sessions = await Promise.all(['writer', 'consumer', 'other'].map((name) => server.connect(name)));
  const ended = sessions.map((client) => new Promise((resolve) => client.once('end', resolve)));
  await server.killBackend(['chaos consumer', 'chaos writer%'], 7);
  await Promise.all(ended);
  expect(await startTime()).toBe(before);
});

// Retried, since a process of the server may write the WAL between the rollback and the crash, as it does every 15 s.
test('a crash forgets the id of a rolled-back transaction, and the next one gets it', { retry: 2 }, async () => {
  const client = await server.connect('writer');
  const assign = 'SELECT pg_current_xact_id()::text AS xid';
  await client.query('BEGIN');
  const { rows: rolledBack } = await client.query<{ xid: string }>(assign);
  await client.query('ROLLBACK');
  await server.killBackend(['chaos writer'], 0);
  const next = await server.connect('writer');
  const { rows } = await next.query<{ xid: string }>(assign);
  await next.end();
  expect(rows).toEqual(rolledBack);
});

test('a standby streams from the server, lags while its replay is paused, and comes level again', async () => {
  const before = await server.connect('test');
  await before.query(`ALTER DATABASE signals SET default_transaction_isolation = 'serializable'`);
  await before.end();
  await server.startStandby();
  const resume = await server.pauseStandby();
  const [primary, standby] = await Promise.all([server.connect('test'), server.connectToStandby('test')]);
  await primary.query('CREATE TABLE later ()');
  const until = async (sql: string) => {
    while ((await standby.query(sql)).rowCount === 0);
  };
  const { rows } = await primary.query('SELECT pg_current_wal_flush_lsn() AS lsn');
  await until(`SELECT WHERE pg_last_wal_receive_lsn() >= '${rows[0].lsn}'`);
  const later = `SELECT FROM pg_class WHERE relname = 'later'`;
  expect((await standby.query(later)).rowCount).toBe(0);
  await resume();
  await until(later);
  await Promise.all([primary.end(), standby.end()]);
});
