/** The consumer as a service: log, health, metrics. */

import { rightsOf } from '@pg-signals/db';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { asRole, createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import { createLogger, type Service } from '@pg-signals/runtime';
import pg from 'pg';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Condition, Writer } from '../../client/test/testListener.ts';
import { readConsumerSettings, startConsumer } from '../src/index.ts';

let database: TestDatabase;
let writer: Writer;
let proxy: FaultyProxy;
let consumer: Service;
let log = '';
const condition = new Condition();
const logged = (text: RegExp) => condition.until(() => text.test(log));

beforeAll(async () => {
  database = await createTestDatabase();
  writer = await Writer.connect(database.url);
  proxy = new FaultyProxy(Number(new URL(database.url).port));
  await proxy.start();
  const throughProxy = new URL(database.url);
  throughProxy.port = String(proxy.port);
  consumer = await startConsumer(
    readConsumerSettings({
      DATABASE_URL: asRole(throughProxy.href, 'signals_consumer'),
      PORT: '0',
      LISTEN_PROOF_INTERVAL_MS: '50',
    }),
    createLogger({
      write: (lines) => {
        log += lines;
        condition.changed();
      },
    }),
    ({ signal_name }) => {
      if (signal_name === 'broken') throw new Error('no');
      if (signal_name === 'rejected') return Promise.reject(new Error('no'));
    },
  );
  await logged(/INFO Starting listener/);
});
afterAll(async () => {
  await consumer.stop();
  proxy.close();
  await writer.end();
  await database.drop();
});

/** Resolves when it is: on a busy machine a proof may be older than three intervals of 50 ms at times. */
async function ready(): Promise<void> {
  while ((await fetch(`${consumer.url}/readyz`)).status !== 200);
}

const metric = async (name: string) => {
  const text = await (await fetch(`${consumer.url}/metrics`)).text();
  return Number(new RegExp(`^signals_${name} (\\S+)`, 'm').exec(text)?.[1]);
};

test('it logs each signal once, with its microseconds', async () => {
  await writer.client.query(
    `INSERT INTO signals ("timestamp", signal_name, signal_value) VALUES ('2026-04-02T16:23:17.123456Z', 'test signal', 0.5)`,
  );
  await logged(/notification received/);
  expect(log).toMatch(
    /INFO notification received id=1 timestamp=2026-04-02T16:23:17\.123456\+00:00 signal_name="test signal" signal_value=0\.5\n/,
  );
});

test('/ says that signals go in elsewhere', async () => {
  expect(await (await fetch(consumer.url)).text()).toMatch(/POST \/ingest is at the producer.\n\nGET \/healthz /);
});

test('it logs the attributes of a signal that has any', async () => {
  await writer.client.query(
    `INSERT INTO signals (signal_name, signal_value, attributes) VALUES ('kitchen', 1, '{"room": "kitchen"}')`,
  );
  await logged(/signal_name=kitchen signal_value=1 attributes=\{"room":"kitchen"\}\n/);
  expect(log.match(/attributes=/g)).toHaveLength(1);
});

test('a long name that looks like a URL does not hold it up', async () => {
  const before = process.cpuUsage();
  await writer.client.query(`INSERT INTO signals (signal_name, signal_value) VALUES (repeat('a', 200000) || '://', 1)`);
  await logged(/signal_name="?a{200000}:\/\/"? signal_value=1\n/);
  expect(process.cpuUsage(before).user / 1_000).toBeLessThan(2_000); // ms; a square of this length takes half a minute
});

test('it is ready while proofs come, and says what it received', async () => {
  await ready();
  expect(await metric('listening')).toBe(1);
  expect(
    (await metric('received_total{source="notify"}')) + ((await metric('received_total{source="catch_up"}')) || 0),
  ).toBe(3);
  expect(await metric('proof_age_seconds')).toBeGreaterThanOrEqual(0);
  expect(await metric('reconnects_total')).toBe(0);
});

test('it reads what a notification does not hold', async () => {
  await writer.client.query(`INSERT INTO signals (signal_name, signal_value) VALUES (repeat('large', 2000), 1)`);
  await logged(/signal_name=largelarge/);
});

test.each(rightsOf('signals_consumer'))('without %s it is not ready, and says so', async (right) => {
  await writer.client.query(`REVOKE ${right} FROM signals_consumer, PUBLIC`);
  const refused = await fetch(`${consumer.url}/readyz`);
  await writer.client.query(`GRANT ${right} TO signals_consumer`);
  expect(refused.status).toBe(503);
  expect(await refused.json()).toMatchObject({ detail: expect.stringContaining(right) });
  await ready();
});

test.each([
  `INSERT INTO signals (signal_name, signal_value) VALUES ('a', 1)`,
  'DELETE FROM signals',
  'SELECT FROM signal_keys',
  `SELECT fn_insert_keyed_signals('{}', '{}', '{}', '{}', '{}', '{}', '{}')`,
])('its role may not %s', async (sql) => {
  const client = new pg.Client({ connectionString: asRole(database.url, 'signals_consumer') });
  await client.connect();
  await expect(client.query(sql)).rejects.toMatchObject({ code: '42501' });
  await client.end();
});

test('callbacks that throw or reject are counted, and the log says which signal', async () => {
  await writer.client.query(
    `INSERT INTO signals (signal_name, signal_value) VALUES ('broken', 1), ('rejected', 1), ('fine', 1)`,
  );
  await logged(/signal_name=fine/);
  expect(log.match(/ERROR Callback failed, going on id=/g)).toHaveLength(2);
  expect(await metric('callback_failures_total')).toBe(2);
  expect(await metric('pool_connections\\{state="used"\\}')).toBeGreaterThan(0);
});

test('it is not ready when the proof is older than three intervals, and ready again after it reconnects', async () => {
  const open = proxy.block('connect', 'toServer', 'toClient');
  proxy.cut();
  for (;;) {
    const response = await fetch(`${consumer.url}/readyz`);
    if (response.status === 503) {
      expect(await response.json()).toMatchObject({
        detail: expect.stringMatching(/^The last proof .* s old, more than 0\.15 s/),
      });
      break;
    }
  }
  expect(await metric('listening')).toBe(0);
  open();
  await logged(/Starting listener.*Starting listener/s);
  await ready();
  expect(await metric('reconnects_total')).toBeGreaterThan(0);
});

test('a port that is taken is said, and nothing stays open', async () => {
  const { port } = new URL(consumer.url);
  const settings = readConsumerSettings({ DATABASE_URL: database.url, PORT: port });
  const logger = createLogger({ write() {} });
  await expect(startConsumer(settings, logger)).rejects.toThrow(`Port ${port} is taken`);
  const health = readConsumerSettings({ DATABASE_URL: database.url, PORT: port, HEALTH_PORT: port });
  await expect(startConsumer(health, logger)).rejects.toThrow(/set HEALTH_PORT/);
});

test('with HEALTH_PORT it answers there', async () => {
  const { port } = new URL(consumer.url);
  const settings = readConsumerSettings({ DATABASE_URL: database.url, PORT: port, HEALTH_PORT: '0' });
  const other = await startConsumer(settings, createLogger({ write() {} }));
  expect((await fetch(`${other.url}/healthz`)).status).toBe(200);
  await other.stop();
});

test('from the start of a stop it is not ready, while a callback is still at work', async () => {
  const called = Promise.withResolvers<void>();
  const finish = Promise.withResolvers<void>();
  const settings = readConsumerSettings({ DATABASE_URL: database.url, PORT: '0' });
  let text = '';
  const changed = new Condition();
  const write = (lines: string) => {
    text += lines;
    changed.changed();
  };
  const other = await startConsumer(settings, createLogger({ write }), () => {
    called.resolve();
    return finish.promise;
  });
  await changed.until(() => text.includes('Starting listener'));
  await writer.client.query(`INSERT INTO signals (signal_name, signal_value) VALUES ('slow', 1)`);
  await called.promise;
  const stopped = other.stop();
  const ready = await fetch(`${other.url}/readyz`);
  expect([ready.status, await ready.json()]).toMatchObject([503, { detail: 'The consumer is stopping.' }]);
  finish.resolve();
  await stopped;
});
