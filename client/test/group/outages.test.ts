/** Members whose server restarts, whose lease ends unseen, and who have the rights of a consumer alone. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrate } from '@pg-signals/db/migrate';
import { createRoles } from '@pg-signals/db/roles';
import { startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { asRole } from '@pg-signals/local/testing';
import pg from 'pg';
import { expect, onTestFinished, test } from 'vitest';
import { TestGroup, upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

const insertOfOneKey = (count: number) =>
  groups.client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT 'key', n FROM generate_series(1, $1::int) AS n`,
    [count],
  );
const countOf = async (table: string) => (await groups.client.query(`SELECT FROM ${table}`)).rowCount;

test('the rights of a consumer are enough to give a signal up', async () => {
  await createRoles(groups.url);
  const group = groups.make({ url: asRole(groups.url, 'signals_consumer') });
  const fail = () => {
    throw new Error('never');
  };
  await group.join({ retries: 0 }, fail).lanes(64);
  await groups.insert(1);
  await expect.poll(() => countOf('dead_letters'), { timeout: 10_000 }).toBe(1);
});

test('a member begins nothing of a key past its lease, when others may have the lane', async () => {
  const proxy = new FaultyProxy(Number(new URL(groups.url).port));
  await proxy.start();
  onTestFinished(() => proxy.close());
  const url = Object.assign(new URL(groups.url), { port: String(proxy.port) }).href;
  const group = groups.make({ order: 'signal_name', concurrency: 4 });
  const finish = Promise.withResolvers<void>();
  const cut = group.join({ url }, () => finish.promise);
  await cut.lanes(64);
  await insertOfOneKey(3);
  await group.until(() => group.runs.length === 1);
  const open = proxy.block('toServer', 'toClient', 'connect');
  const other = group.join({}, () => {});
  await other.lanes(64);
  finish.resolve();
  await group.until(() => group.runs.filter(({ member }) => member === 2).length === 3);
  open();
  await group.until(() => group.log.includes('Lost its lanes'));
  expect(group.runs.filter(({ member }) => member === 1).map(({ id }) => id)).toEqual([1]);
});

test('a catch-up goes on after a restart of the server, through rows too large for a page', async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-group-'));
  let server = await startEmbeddedPostgres({ directory });
  onTestFinished(async () => {
    await group.stop();
    await server.stop('immediate');
    rmSync(directory, { recursive: true, force: true });
  });
  await migrate(server.url);
  const { url } = server;
  const client = new pg.Client(url);
  client.on('error', () => {});
  await client.connect();
  await client.query(
    `INSERT INTO signals (signal_name, signal_value, attributes)
     SELECT 'large', n, jsonb_build_object('long', repeat('x', 9000)) FROM generate_series(1, 30) AS n`,
  );
  const group = new TestGroup(url, { from: 'earliest', leaseMs: 60_000, proofTimeoutMs: 500, retryMs: 100 });
  const half = Promise.withResolvers<void>();
  group.join({}, ({ id }) => (id === 15 ? half.promise : undefined));
  await group.until(() => group.runs.length === 15);
  await server.stop('fast');
  server = await startEmbeddedPostgres({ directory, port: Number(new URL(url).port) });
  half.resolve();
  await group.until(() => group.runs.length >= 30);
  expect(group.ids).toEqual(upTo(30));
});
