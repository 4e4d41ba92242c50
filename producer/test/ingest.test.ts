/** POST /ingest as a client sees it, on a whole producer. */
import { once } from 'node:events';
import net from 'node:net';
import { freePort } from '@pg-signals/local/embedded';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import { createLogger, type Service } from '@pg-signals/runtime';
import pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { readProducerSettings, startProducer } from '../src/index.ts';

let database: TestDatabase;
let client: pg.Client;
let producer: Service;
let log = '';

const start = (environment: Record<string, string> = {}) =>
  startProducer(
    readProducerSettings({ PORT: '0', DATABASE_URL: database.url, ...environment }),
    createLogger({ write: (lines) => (log += lines) }),
  );

beforeAll(async () => {
  database = await createTestDatabase();
  client = new pg.Client({ connectionString: database.url });
  client.on('error', () => {});
  await client.connect();
  producer = await start();
});
beforeEach(() => {
  log = '';
});
afterAll(async () => {
  await producer.stop();
  await client.end();
  await database.drop();
});

async function post(body?: string | Buffer, headers: Record<string, string> = { 'Content-Type': 'application/json' }) {
  const response = await fetch(`${producer.url}/ingest`, {
    method: 'POST',
    ...(body === undefined ? {} : { body: body as string, headers }),
  });
  return {
    status: response.status,
    type: response.headers.get('content-type'),
    body: (await response.json()) as never,
  };
}
const postSignal = (signal: unknown) => post(JSON.stringify(signal));
const count = async () => Number((await client.query('SELECT count(*) FROM signals')).rows[0].count);

test('no body inserts a random signal, answers with its row, and logs it', async () => {
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
  const { id, signal_value } = body as { id: number; signal_value: number };
  expect(signal_value).toBeGreaterThanOrEqual(0);
  expect(signal_value).toBeLessThan(1);
  const { rows } = await client.query('SELECT signal_value FROM signals WHERE id = $1', [id]);
  expect(rows).toEqual([{ signal_value }]);
  expect(log).toContain(`INFO Inserting data into database signal_name=test_signal signal_value=${signal_value}\n`);
});

test('a signal is inserted as it was sent, and the answer is what the consumers get', async () => {
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
  expect(JSON.parse(payload!)).toEqual({ ...(body as object), xid: expect.any(String) });
  await client.query('UNLISTEN *');
});

test.each([
  ['{"signal_name": "a",}', 20],
  ['{"signal_name"', 14],
  ['hello', 0],
  ['[1 2]', 3],
  ['\n\n  {"a": tru}', 10],
])('malformed JSON %j is 400 with position %i', async (text, position) => {
  const { status, type, body } = await post(text);
  expect([status, type]).toEqual([400, 'application/problem+json']);
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
])('%s is 422 and tells what was expected', async (_name, signal, pointer, detail) => {
  const before = await count();
  const { status, body } = await postSignal(signal);
  expect(status).toBe(422);
  expect((body as { errors: unknown }).errors).toEqual([{ pointer, detail: expect.stringContaining(detail) }]);
  expect(await count()).toBe(before);
});

test('1e999 is no finite number', async () => {
  expect(await post('{"signal_name":"a","signal_value":1e999}')).toMatchObject({ status: 422 });
});

test('several wrong fields are told at once', async () => {
  const { body } = await postSignal({ signal_name: '', signal_value: null });
  expect((body as { errors: { pointer: string }[] }).errors.map(({ pointer }) => pointer)).toEqual([
    '/signal_name',
    '/signal_value',
  ]);
});

test('a name of 255 characters of four bytes each is taken', async () => {
  expect(await postSignal({ ...good, signal_name: '😀'.repeat(255) })).toMatchObject({ status: 200 });
});

test('a signal too large for a notification is taken all the same', async () => {
  expect(await postSignal({ ...good, attributes: { text: 'x'.repeat(100_000) } })).toMatchObject({ status: 200 });
});

test('what the table alone can tell is 422 too', async () => {
  expect(await postSignal({ ...good, timestamp: '0000-01-01T00:00:00Z' })).toMatchObject({
    status: 422,
    body: { detail: expect.stringMatching(/^The database refuses this signal: /) },
  });
});

test('a nesting that no stack holds is 422, and the producer lives on', async () => {
  const deep = 100_000;
  const body = `{"signal_name":"a","signal_value":1,"attributes":{"a":${'['.repeat(deep)}${']'.repeat(deep)}}}`;
  expect(await post(body)).toMatchObject({ status: 422 });
  expect(await postSignal(good)).toMatchObject({ status: 200 });
});

test('another content type is 415, with the one that is taken', async () => {
  expect(await post('<a/>', { 'Content-Type': 'text/xml' })).toMatchObject({
    status: 415,
    body: { detail: 'Content-Type is text/xml, but application/json was expected.' },
  });
  expect(await post('{}', { 'Content-Type': 'application/json; charset=utf-8' })).toMatchObject({ status: 422 });
});

test('a body over the limit is 413, whether its length is told beforehand or not', async () => {
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

test('a client that breaks off in its body inserts nothing and harms nobody', async () => {
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

test('other paths are 404 and other methods 405', async () => {
  expect((await fetch(`${producer.url}/signals`)).status).toBe(404);
  const response = await fetch(`${producer.url}/ingest`);
  expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
});

test('the committed are counted in the metrics', async () => {
  const metrics = await (await fetch(`${producer.url}/metrics`)).text();
  expect(metrics).toMatch(/^signals_ingested_total [1-9]/m);
  expect(metrics).toMatch(/^signals_ingest_duration_seconds_count [1-9]/m);
});

test('without the table /readyz says what to run, and /ingest is 500', async () => {
  const empty = await createTestDatabase({ migrated: false });
  const early = await start({ DATABASE_URL: empty.url });
  const ready = await fetch(`${early.url}/readyz`);
  expect([ready.status, await ready.json()]).toMatchObject([
    503,
    { detail: expect.stringContaining('npm run migrate') },
  ]);
  expect((await fetch(`${early.url}/ingest`, { method: 'POST' })).status).toBe(500);
  await early.stop();
  await empty.drop();
});

test('with the database down an insert is 500 and tells no secret; when it is back, so is the producer', async () => {
  const target = new URL(database.url);
  const port = await freePort();
  const url = new URL(database.url);
  url.hostname = '127.0.0.1';
  url.port = String(port);
  url.password = 'hunter2';
  const lonely = await start({ DATABASE_URL: url.href });
  const ingest = () => fetch(`${lonely.url}/ingest`, { method: 'POST' });
  const failed = await ingest();
  expect(failed.status).toBe(500);
  expect(await failed.text()).not.toMatch(/hunter2|127\.0\.0\.1/);
  expect(log).not.toContain('hunter2');
  expect((await fetch(`${lonely.url}/readyz`)).status).toBe(503);
  expect((await fetch(`${lonely.url}/healthz`)).status).toBe(200);
  await lonely.stop();

  url.password = target.password;
  const patient = await start({ DATABASE_URL: url.href });
  const again = () => fetch(`${patient.url}/ingest`, { method: 'POST' });
  expect((await again()).status).toBe(500);
  const sockets: net.Socket[] = [];
  const proxy = net
    .createServer((socket) => {
      const upstream = net.connect(Number(target.port), target.hostname);
      for (const end of [socket, upstream]) sockets.push(end.on('error', () => {}));
      socket.pipe(upstream).pipe(socket);
    })
    .listen(port, '127.0.0.1');
  await once(proxy, 'listening');
  expect((await again()).status).toBe(200);
  await patient.stop();
  for (const socket of sockets) socket.destroy();
  proxy.close();
});
