/** A database and roles with every setting at an odd value: the pair must not notice. */

import { readConsumerSettings, startConsumer } from '@pg-signals/consumer';
import { migrate } from '@pg-signals/db/migrate';
import { createRoles } from '@pg-signals/db/roles';
import { asRole, createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import { readProducerSettings, startProducer } from '@pg-signals/producer';
import { createLogger, type Service } from '@pg-signals/runtime';
import pg from 'pg';
import type { Signal } from 'pg-signals';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
import { DECOYS, ODD_SETTINGS } from '../src/chaos/settings.ts';

let database: TestDatabase;
let client: pg.Client;
const services: Service[] = [];
const received: Signal[] = [];
const condition = new Condition();
let producer: Service;

beforeAll(async () => {
  database = await createTestDatabase({ migrated: false });
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
  for (const [name, [value]] of Object.entries(ODD_SETTINGS)) {
    await client.query(`ALTER DATABASE ${client.database} SET ${name} = '${value}'`);
  }
  await client.query(DECOYS);
});

afterAll(async () => {
  await Promise.all(services.map((service) => service.stop()));
  await client.end();
  await database.drop();
});

const quiet = createLogger({ write() {} });

async function start(): Promise<void> {
  await migrate(database.url);
  await createRoles(database.url);
  const settings = { PORT: '0' };
  const asConsumer = { ...settings, DATABASE_URL: asRole(database.url, 'signals_consumer') };
  const listening = Promise.withResolvers<void>();
  const logger = createLogger({ write: (lines) => lines.includes('Starting listener') && listening.resolve() });
  services.push(
    await startConsumer(readConsumerSettings(asConsumer), logger, (signal) => {
      received.push(signal);
      condition.changed();
    }),
  );
  await listening.promise;
  const asProducer = { ...settings, DATABASE_URL: asRole(database.url, 'signals_producer') };
  producer = await startProducer(readProducerSettings(asProducer), quiet);
  services.push(producer);
}

async function post(body: unknown, headers: Record<string, string> = {}, { url } = producer) {
  const response = await fetch(`${url}/ingest`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...headers },
    body: JSON.stringify(body),
  });
  return (await response.json()) as Signal & { ids?: number[] };
}

const SIGNAL = {
  signal_name: 'O\'Brien \\ "NULL" \\\' é',
  signal_value: 0.1 + 0.2,
  timestamp: '1850-02-03T04:05:06.123456Z',
  attributes: { at: '03/02/1850', exact: 1 / 3, text: "\\x41 ' \\" },
};
const ROW = { ...SIGNAL, id: expect.any(Number), timestamp: '1850-02-03T04:05:06.123456+00:00' };

const delivered = async (id: number) => {
  await condition.until(() => received.some((signal) => signal.id === id));
  return received.filter((signal) => signal.id === id);
};

test('migrations go into public, and both services are ready', async () => {
  await start();
  for (const { url } of services) expect(await (await fetch(`${url}/readyz`)).json()).toEqual({ status: 'ready' });
});

test.each([
  ['alone', (signal: object) => post(signal)],
  ['with a key', (signal: object) => post({ ...signal, key: 'k' })],
  ['with that key again', (signal: object) => post({ ...signal, key: 'k' })],
  ['large', (signal: object) => post({ ...signal, attributes: { ...SIGNAL.attributes, large: 'x'.repeat(9_000) } })],
])('a signal %s comes back and arrives as it was sent', async (form, send) => {
  const row = await send(SIGNAL);
  const attributes = form === 'large' ? { ...SIGNAL.attributes, large: 'x'.repeat(9_000) } : SIGNAL.attributes;
  expect(row).toEqual({ ...ROW, attributes });
  expect(await delivered(row.id)).toEqual([{ ...row, xid: expect.any(String) }]);
});

test('signals together arrive as they were sent, once', async () => {
  const { timestamp: _timestamp, ...untimed } = SIGNAL;
  for (let time = 0; time < 2; time++) {
    const { ids } = await post([SIGNAL, untimed], { 'Idempotency-Key': 'together' });
    expect(await delivered(ids![0]!)).toEqual([{ ...ROW, xid: expect.any(String) }]);
    expect(await delivered(ids![1]!)).toEqual([{ ...ROW, timestamp: expect.any(String), xid: expect.any(String) }]);
  }
});

test('two producers insert the same keys at the same time, each once', async () => {
  const asProducer = { PORT: '0', DATABASE_URL: asRole(database.url, 'signals_producer') };
  const other = await startProducer(readProducerSettings(asProducer), quiet);
  services.push(other);
  const answers = await Promise.all(
    Array.from({ length: 400 }, (_, n) =>
      post({ ...SIGNAL, key: `same-${n >> 1}` }, {}, n % 2 === 0 ? other : producer),
    ),
  );
  expect(answers.map(({ signal_value }) => signal_value)).toEqual(answers.map(() => SIGNAL.signal_value));
  expect(new Set(answers.map(({ id }) => id)).size).toBe(200);
});

test('a signal that is read from the table arrives as it was sent', async () => {
  const pool = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'pg-signals consumer'`;
  // In one transaction, so that the listener is gone before it commits.
  await client.query('BEGIN');
  const { rows } = await client.query(
    `INSERT INTO public.signals ("timestamp", signal_name, signal_value, attributes) VALUES ($1, $2, $3, $4) RETURNING id`,
    [SIGNAL.timestamp, SIGNAL.signal_name, SIGNAL.signal_value, SIGNAL.attributes],
  );
  await client.query(pool);
  await client.query('COMMIT');
  expect(await delivered(Number(rows[0].id))).toEqual([{ ...ROW, xid: expect.any(String) }]);
});
