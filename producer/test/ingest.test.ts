/** POST /ingest with one signal, on a whole producer. */
import { once } from 'node:events';
import net from 'node:net';
import { createTestDatabase } from '@pg-signals/local/testing';
import type { Service } from '@pg-signals/runtime';
import type pg from 'pg';
import { beforeAll, expect, test } from 'vitest';
import { NO_SERVER, post as postTo, useProducers, useProxy } from './testProducer.ts';

const producers = useProducers();
const proxied = useProxy(producers);
let producer: Service;
beforeAll(async () => {
  producer = await producers.start();
});

const post = (...request: [body?: RequestInit['body'], headers?: Record<string, string>]) =>
  postTo(producer, ...request);
const postSignal = (signal: unknown) => post(JSON.stringify(signal));
const count = async () => (await producers.names()).length;

test('a request without a body inserts a random signal, answers with its row, and logs it', async () => {
  const { status, body } = await post();
  expect([status, body]).toEqual([
    200,
    {
      id: expect.any(Number),
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00$/),
      signal_name: 'test_signal',
      signal_value: expect.any(Number),
      attributes: {},
    },
  ]);
  const { id, signal_value } = body;
  expect(signal_value).toBeGreaterThanOrEqual(0);
  expect(signal_value).toBeLessThan(1);
  const { rows } = await producers.client.query('SELECT signal_value FROM signals WHERE id = $1', [id]);
  expect(rows).toEqual([{ signal_value }]);
  expect(producers.log).toContain(
    `INFO Inserting data into database signal_name=test_signal signal_value=${signal_value}\n`,
  );
});

test('a signal is inserted as it was sent, and the answer is what consumers receive', async () => {
  const { client } = producers;
  await client.query('LISTEN new_signals');
  const notified = once(client, 'notification');
  const { status, body } = await postSignal({
    signal_name: 'température "1" 😀',
    signal_value: -1.5e-300,
    timestamp: '2026-04-02T18:23:17.123456789+02:00',
    attributes: { room: 'kitchen', nested: [{ a: null }] },
  });
  expect([status, body]).toEqual([
    200,
    {
      id: expect.any(Number),
      timestamp: '2026-04-02T16:23:17.123457+00:00',
      signal_name: 'température "1" 😀',
      signal_value: -1.5e-300,
      attributes: { room: 'kitchen', nested: [{ a: null }] },
    },
  ]);
  const [{ payload }] = (await notified) as [pg.Notification];
  expect(JSON.parse(payload!)).toEqual({ ...body, xid: expect.any(String) });
  await client.query('UNLISTEN *');
});

test.each([
  ['{"signal_name": "a",}', 20],
  ['{"signal_name"', 14],
  ['hello', 0],
  ['[1 2]', 3],
  ['\n\n  {"a": tru}', 10],
])('malformed JSON %j is 400 with position %i', async (text, position) => {
  const { status, headers, body } = await post(text);
  expect([status, headers.get('content-type')]).toEqual([400, 'application/problem+json']);
  expect(body).toMatchObject({
    position,
    detail: expect.stringMatching(/The body is not JSON: .* at line \d+, column \d+/),
  });
});

test('a body that is not UTF-8 is 400', async () => {
  expect(await post(Buffer.from([0x22, 0xff, 0x22]))).toMatchObject({
    status: 400,
    body: { detail: 'The body is not UTF-8.' },
  });
});

const good = { signal_name: 'a', signal_value: 1 };
test.each([
  ['no name', { signal_value: 1 }, '/signal_name', 'got nothing'],
  ['an empty name', { ...good, signal_name: '' }, '/signal_name', 'expected 1 to 255 characters'],
  [
    'a name of 256 characters',
    { ...good, signal_name: 'x'.repeat(256) },
    '/signal_name',
    'expected 1 to 255 characters',
  ],
  ['a name with a control character', { ...good, signal_name: 'a\nb' }, '/signal_name', 'got "a\\nb"'],
  ['half a surrogate pair', { ...good, signal_name: 'a\ud800' }, '/signal_name', 'expected 1 to 255 characters'],
  ['a value of text', { ...good, signal_value: '7' }, '/signal_value', 'expected a finite number, got "7"'],
  ['no value', { signal_name: 'a' }, '/signal_value', 'expected a finite number, got nothing'],
  [
    'a timestamp without offset',
    { ...good, timestamp: '2026-04-02T16:23:17' },
    '/timestamp',
    'expected RFC 3339 with an offset',
  ],
  [
    'a day that does not exist',
    { ...good, timestamp: '2026-02-30T00:00:00Z' },
    '/timestamp',
    'got "2026-02-30T00:00:00Z"',
  ],
  ['a number as timestamp', { ...good, timestamp: 5 }, '/timestamp', 'expected RFC 3339'],
  ['attributes that are an array', { ...good, attributes: [] }, '/attributes', 'expected an object, got an array'],
  ['U+0000 in attributes', { ...good, attributes: { a: ['\0'] } }, '/attributes', 'U+0000'],
  ['a misspelt field', { ...good, 'singal/name': 1 }, '/singal~1name', 'expected only signal_name'],
  ['a number', 5, '', 'expected an object, got 5'],
])('%s is 422 and says what was expected', async (_name, signal, pointer, detail) => {
  const before = await count();
  const { status, body } = await postSignal(signal);
  expect(status).toBe(422);
  expect(body.errors).toEqual([{ pointer, detail: expect.stringContaining(detail) }]);
  expect(await count()).toBe(before);
});

test('1e999 is 422: no finite number', async () => {
  expect(await post('{"signal_name":"a","signal_value":1e999}')).toMatchObject({ status: 422 });
});

test('several invalid fields are reported at once', async () => {
  const { body } = await postSignal({ signal_name: '', signal_value: null });
  expect(body.errors).toMatchObject([{ pointer: '/signal_name' }, { pointer: '/signal_value' }]);
});

test('a name of 255 characters of four bytes each is valid', async () => {
  expect(await postSignal({ ...good, signal_name: '😀'.repeat(255) })).toMatchObject({ status: 200 });
});

test('a signal too large for a notification is inserted too', async () => {
  expect(await postSignal({ ...good, attributes: { text: 'x'.repeat(100_000) } })).toMatchObject({ status: 200 });
});

test('a signal that only the table refuses is 422 too', async () => {
  expect(await postSignal({ ...good, timestamp: '0000-01-01T00:00:00Z' })).toMatchObject({
    status: 422,
    body: { detail: expect.stringMatching(/^The database refuses this signal: /) },
  });
});

test('nesting deeper than the stack is 422, and the producer goes on', async () => {
  const deep = 100_000;
  const body = `{"signal_name":"a","signal_value":1,"attributes":{"a":${'['.repeat(deep)}${']'.repeat(deep)}}}`;
  expect(await post(body)).toMatchObject({ status: 422 });
  expect(await postSignal(good)).toMatchObject({ status: 200 });
});

test('another content type is 415, and says which was expected', async () => {
  expect(await post('<a/>', { 'Content-Type': 'text/xml' })).toMatchObject({
    status: 415,
    body: { detail: 'Content-Type is text/xml, but application/json was expected.' },
  });
  expect(await post('{}', { 'Content-Type': 'application/json; charset=utf-8' })).toMatchObject({ status: 422 });
});

test('a body over the limit is 413, with a Content-Length or without', async () => {
  const body = JSON.stringify({ ...good, attributes: { text: 'x'.repeat(1024 * 1024) } });
  expect(await post(body)).toMatchObject({ status: 413 });
  const chunked = await fetch(`${producer.url}/ingest`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: new Blob([body]).stream(),
    duplex: 'half',
  });
  expect(chunked.status).toBe(413);
});

test('a client that breaks off in its body inserts nothing and disturbs no other request', async () => {
  const before = await count();
  const socket = net.connect(Number(new URL(producer.url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.write(
    'POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{"signal_name":',
  );
  await new Promise((resolve) => setImmediate(resolve));
  socket.destroy();
  expect(await postSignal(good)).toMatchObject({ status: 200 });
  expect(await count()).toBe(before + 1);
});

test('/ says where to go; other paths are 404 and other methods 405', async () => {
  expect((await fetch(`${producer.url}/signals`)).status).toBe(404);
  expect(await (await fetch(producer.url)).text()).toMatch(/^POST \/ingest .*\nGET \/healthz /m);
  const response = await fetch(`${producer.url}/ingest`);
  expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
});

test('the metrics count committed signals', async () => {
  const metrics = await (await fetch(`${producer.url}/metrics`)).text();
  expect(metrics).toMatch(/^signals_ingested_total [1-9]/m);
  expect(metrics).toMatch(/^signals_ingest_duration_seconds_count [1-9]/m);
});

test('without the table /readyz says what to run, and /ingest is 500', async () => {
  const empty = await createTestDatabase({ migrated: false });
  const early = await producers.start({ DATABASE_URL: empty.url });
  const ready = await fetch(`${early.url}/readyz`);
  expect([ready.status, await ready.json()]).toMatchObject([
    503,
    { detail: expect.stringContaining('npm run migrate') },
  ]);
  expect((await postTo(early)).status).toBe(500);
  await early.stop();
  await empty.drop();
});

test('with the database down a request is 500 and shows no secret', async () => {
  const url = new URL(producers.databaseUrl);
  url.port = String(NO_SERVER);
  url.password = 'hunter2';
  const { url: service } = await producers.start({ DATABASE_URL: url.href });
  const { status, body } = await postTo({ url: service });
  expect(status).toBe(500);
  expect(JSON.stringify(body)).not.toMatch(/hunter2|127\.0\.0\.1/);
  expect(producers.log).not.toContain('hunter2');
  expect((await fetch(`${service}/readyz`)).status).toBe(503);
  expect((await fetch(`${service}/healthz`)).status).toBe(200);
});

test('when the database comes back the producer inserts again by itself', async () => {
  const { proxy, url } = proxied;
  const database = proxy.target;
  proxy.target = NO_SERVER;
  const patient = await producers.start({ DATABASE_URL: url });
  expect((await postTo(patient)).status).toBe(500);
  proxy.target = database;
  expect((await postTo(patient)).status).toBe(200);
});
