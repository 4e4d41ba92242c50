/** States of the server in which it takes no signal at all: a full NOTIFY queue, and no free id. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { migrate } from '@pg-signals/db/migrate';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { createLogger, type Service } from '@pg-signals/runtime';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { readProducerSettings, startProducer } from '../src/index.ts';
import { sendUntilAnswered } from '../src/send/request.ts';
import { post, postJson } from './testProducer.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-blocked-'));
let postgres: EmbeddedPostgres;
let client: pg.Client;
let producer: Service;
beforeAll(async () => {
  // 64 pages of 8 kB, the least: the whole cluster has one queue, so the server is this test's own.
  const settings = { max_notify_queue_pages: '64', fsync: 'off' };
  postgres = await startEmbeddedPostgres({ directory: path.join(directory, 'postgres'), settings });
  await migrate(postgres.url);
  client = await connect();
  producer = await startProducer(
    readProducerSettings({ PORT: '0', DATABASE_URL: postgres.url }),
    createLogger({ write() {} }),
  );
});
afterAll(async () => {
  await producer?.stop();
  await client?.end();
  await postgres?.stop('immediate');
  rmSync(directory, { recursive: true });
});

async function connect(): Promise<pg.Client> {
  const connected = new pg.Client({ connectionString: postgres.url });
  connected.on('error', () => {});
  await connected.connect();
  return connected;
}

const signal = { signal_name: 'a', signal_value: 1 };
const readiness = async () => {
  const response = await fetch(`${producer.url}/readyz`);
  return { status: response.status, body: await response.json() };
};
const failed = async (reason: string) => {
  const text = await (await fetch(`${producer.url}/metrics`)).text();
  return Number(new RegExp(`^signals_ingest_failed_total\\{reason="${reason}"\\} (\\d+)`, 'm').exec(text)?.[1] ?? 0);
};

/** A session that listens in an open transaction: the queue can't be emptied past it. Fills the queue behind it. */
async function fillQueue(): Promise<pg.Client> {
  const holder = await connect();
  await holder.query('LISTEN other');
  await holder.query('BEGIN');
  const fill = `SELECT pg_notify('other', repeat('x', 7000) || n) FROM generate_series(1, 10) AS n`;
  const full = (async () => {
    for (;;) await client.query(fill);
  })();
  await expect(full).rejects.toMatchObject({ code: '54000' });
  return holder;
}

test('a full NOTIFY queue is 503 with its reason, and /readyz and a metric say it', async () => {
  expect((await readiness()).status).toBe(200);
  const holder = await fillQueue();
  const before = await failed('notify-queue-full');
  const full = { status: 503, body: { detail: expect.stringContaining('NOTIFY queue is full'), may_be_in: false } };
  expect(await postJson(producer, signal)).toMatchObject(full);
  expect(await postJson(producer, [signal, signal])).toMatchObject(full);
  const lines = await post(producer, JSON.stringify(signal), { 'Content-Type': 'application/x-ndjson' });
  expect(lines).toMatchObject({ ...full, body: { ...full.body, accepted: 0, next_line: 1 } });
  expect(lines.headers.get('retry-after')).toBe('1');
  expect(await readiness()).toMatchObject({
    status: 503,
    body: { detail: expect.stringContaining('NOTIFY queue is full') },
  });
  expect((await failed('notify-queue-full')) - before).toBe(4);
  await holder.query('COMMIT');
  await holder.end();
  expect(await readiness()).toMatchObject({ status: 200 });
});

test('a queue that stays full after its holder has gone is freed by the first signal, and send tries until then', async () => {
  const holder = await fillQueue();
  const retried = Promise.withResolvers<string>();
  const sending = sendUntilAnswered({
    url: `${producer.url}/ingest`,
    type: 'application/json',
    body: JSON.stringify(signal),
    onRetry: retried.resolve,
  });
  expect(await retried.promise).toContain('NOTIFY queue is full');
  await holder.end();
  await expect(client.query(`SELECT pg_notify('other', 'still full')`)).rejects.toMatchObject({ code: '54000' });
  expect((await sending).status).toBe(200);
});

const sequence = `pg_get_serial_sequence('signals', 'id')`;
const setForward = `SELECT setval(${sequence}, (SELECT max(id) FROM signals))`;
afterEach(() => client.query(`ALTER TABLE signals ALTER id SET NO MAXVALUE; ${setForward}`));

test('a sequence that was set back is 503, and is not ready until it is set forward again', async () => {
  for (let n = 0; n < 5; n++) expect((await postJson(producer, signal)).status).toBe(200);
  await client.query(`SELECT setval(${sequence}, (SELECT max(id) - 4 FROM signals))`);
  const reason = expect.stringContaining('no free id');
  expect(await readiness()).toMatchObject({ status: 503, body: { detail: reason } });
  expect(await postJson(producer, signal)).toMatchObject({ status: 503, body: { detail: reason, may_be_in: false } });
  expect(await postJson(producer, [signal, signal])).toMatchObject({ status: 503 });
  expect(await failed('no-free-id')).toBe(3);
  await client.query(setForward);
  expect(await readiness()).toMatchObject({ status: 200 });
  expect((await postJson(producer, signal)).status).toBe(200);
});

test('a sequence at its end is 503 too', async () => {
  const { rows } = await client.query(`SELECT nextval(${sequence})`);
  await client.query(`ALTER TABLE signals ALTER id SET MAXVALUE ${rows[0].nextval}`);
  expect(await postJson(producer, signal)).toMatchObject({ status: 503 });
  expect(await postJson(producer, { ...signal, key: 'k' })).toMatchObject({ status: 503 });
});

test('a unique index of the user’s own refuses a signal, as any constraint does', async () => {
  await client.query('CREATE UNIQUE INDEX one_each ON signals (signal_name) WHERE signal_value = 7');
  const unique = { signal_name: 'one', signal_value: 7 };
  expect((await postJson(producer, unique)).status).toBe(200);
  expect((await postJson(producer, unique)).status).toBe(422);
});
