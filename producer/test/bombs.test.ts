/** Requests that are small to send and expensive to answer: each costs little, and no other client notices. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import net from 'node:net';
import { gzipSync } from 'node:zlib';
import type { Service } from '@pg-signals/runtime';
import { beforeAll, expect, test } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
import { useProcesses } from './producerProcess.ts';
import { post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const { listening } = useProcesses(producers);
let producer: Service;
beforeAll(async () => {
  producer = await producers.start({ INGEST_MAX_BATCH: '1000' });
});

const good = { signal_name: 'a', signal_value: 1 };
const LINES = { 'Content-Type': 'application/x-ndjson' };
const JSON_GZIP = { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' };

/** The most memory that a process has had, in MB. */
const peakMemory = (pid: number) =>
  Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;

/** The longest that the event loop of this process was held while `work` ran, in ms. The producer runs in it too. */
async function longestHold(work: () => Promise<unknown>): Promise<number> {
  let longest = 0;
  let last = performance.now();
  let done = false;
  const tick = () => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
    if (!done) setImmediate(tick);
  };
  setImmediate(tick);
  await work();
  done = true;
  return longest;
}

test('an array of more signals than INGEST_MAX_BATCH is refused by its count, compressed or not', async () => {
  const zeros = `[${'0,'.repeat(500_000)}0]`;
  const answers: Awaited<ReturnType<typeof post>>[] = [];
  const held = await longestHold(async () => {
    answers.push(await post(producer, zeros));
    answers.push(await post(producer, gzipSync(zeros) as never, JSON_GZIP));
  });
  for (const { status, body } of answers) {
    expect(status).toBe(413);
    expect(body.detail).toContain('500001 signals, more than 1000 (INGEST_MAX_BATCH)');
  }
  expect(held).toBeLessThan(250);
});

test('the errors of an array are the first hundred, and the rest is not checked', async () => {
  const large = await producers.start({ INGEST_MAX_BATCH: '1000000' });
  const zeros = `[${'0,'.repeat(499_999)}0]`;
  let answer: Awaited<ReturnType<typeof post>> | undefined;
  const held = await longestHold(async () => {
    answer = await post(large, zeros);
  });
  expect(answer!.status).toBe(422);
  expect(answer!.body.errors).toHaveLength(100);
  expect(answer!.body.errors[99]).toEqual({ pointer: '/99', detail: 'expected an object, got 0' });
  expect(held).toBeLessThan(250);
});

test('of ninety thousand unknown fields the first hundred are named', async () => {
  const fields = Array.from({ length: 90_000 }, (_, n) => `"x${n}":0`).join();
  const { status, body } = await post(producer, `{"signal_name":"a","signal_value":1,${fields}}`);
  expect([status, body.errors.length]).toEqual([422, 100]);
});

test('what is long is not repeated whole in an answer', async () => {
  const name = 'x'.repeat(500_000);
  const one = await postJson(producer, { ...good, [name]: 1 });
  expect(JSON.stringify(one.body).length).toBeLessThan(1_000);
  const lines = [
    `{"${name}":1}`,
    `{"signal_name":"a","signal_value":1,"timestamp":"2026-01-01T00:00:00.${'1'.repeat(500_000)}Z"}`,
    JSON.stringify(good),
  ];
  const { status, body } = await post(producer, lines.join('\n'), LINES);
  expect([status, body.accepted + body.refused]).toEqual([200, 3]);
  expect(JSON.stringify(body).length).toBeLessThan(2_000);
});

test.each([
  ['brackets', '['.repeat(500_000), 'application/json'],
  ['objects', '{"a":'.repeat(100_000), 'application/json'],
  ['commas', `[${','.repeat(500_000)}`, 'application/json'],
])('half a megabyte of %s is 400', async (_what, body, type) => {
  const answer = await post(producer, body, { 'Content-Type': type });
  expect(answer).toMatchObject({ status: 400, body: { detail: expect.stringContaining('The body is not JSON') } });
  expect(JSON.stringify(answer.body).length).toBeLessThan(1_000);
});

/** Sends the text of one signal, so that no number of it goes through JavaScript. */
const postAttributes = (attributes: string, value = '1') =>
  post(producer, `{"signal_name":"exact","signal_value":${value},"attributes":${attributes}}`);
const stored = async (id: number) =>
  (await producers.client.query('SELECT attributes::text AS text FROM signals WHERE id = $1', [id])).rows[0].text;

test.each([
  ['{"a":1e400}'],
  ['{"a":[-1e400]}'],
  ['{"a":12345678901234567890}'],
  ['{"a":{"b":[9007199254740993]}}'],
  [`{"a":${'9'.repeat(400)}}`],
])('a number that a double does not hold is refused in attributes: %s', async (attributes) => {
  const refused = {
    status: 422,
    body: { errors: [{ pointer: '/attributes', detail: expect.stringContaining('double') }] },
  };
  expect(await postAttributes(attributes)).toMatchObject(refused);
  const line = `{"signal_name":"exact","signal_value":1,"attributes":${attributes}}`;
  expect(await post(producer, `[${line}]`)).toMatchObject({
    status: 422,
    body: { errors: [{ pointer: '/0/attributes' }] },
  });
  expect(await post(producer, `${line}\n`, LINES)).toMatchObject({ status: 422, body: { refused: 1 } });
});

test.each([
  ['{"a": 9007199254740991}'],
  ['{"a": 9007199254740992}'],
  ['{"a": 10000000000000000000}'],
  ['{"a": 0.8444218515250481}'],
  ['{"a": "12345678901234567890"}'],
  ['{"__proto__": {"b": 1}, "constructor": 2}'],
  ['{"a": {"__proto__": [1]}}'],
])('attributes are stored exactly: %s', async (attributes) => {
  const { status, body } = await postAttributes(attributes);
  expect(status).toBe(200);
  expect(JSON.parse(await stored(body.id))).toEqual(JSON.parse(attributes));
  expect(await stored(body.id)).toBe(attributes);
  expect(JSON.stringify(body.attributes)).toBe(attributes.replaceAll(': ', ':').replaceAll(', ', ','));
});

test('a value is a double, to which a long number is rounded', async () => {
  const { body } = await postAttributes('{}', '12345678901234567890');
  expect(body.signal_value).toBe(Number('12345678901234567890'));
});

test('a field named __proto__ is unknown like any other', async () => {
  const answer = await post(producer, '{"signal_name":"a","signal_value":1,"__proto__":{"timestamp":"x"}}');
  expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer: '/__proto__' }] } });
});

async function connectTo(url: string): Promise<net.Socket> {
  const socket = net.connect(Number(new URL(url).port), '127.0.0.1');
  socket.on('error', () => {});
  await once(socket, 'connect');
  return socket;
}

test('past INGEST_MAX_HELD_BYTES of all bodies together a request is 503, and a stream gets its report', async () => {
  const small = await producers.start({ INGEST_MAX_HELD_BYTES: '100000' });
  const socket = await connectTo(small.url);
  const length = 90_000;
  socket.write(
    `POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`,
  );
  const half = ' '.repeat(length - JSON.stringify(good).length);
  socket.write(half);
  const large = { ...good, attributes: { text: 'x'.repeat(20_000) } };
  let refused = await postJson(small, large);
  while (refused.status === 200) refused = await postJson(small, large); // until the first body has come so far
  expect(refused).toMatchObject({
    status: 503,
    body: { detail: expect.stringContaining('INGEST_MAX_HELD_BYTES'), may_be_in: false },
  });
  expect(refused.headers.get('retry-after')).toBe('1');
  const lines = await post(small, `${JSON.stringify(large)}\n`, LINES);
  expect(lines).toMatchObject({ status: 503, body: { accepted: 0, next_line: 1 } });
  expect((await postJson(small, good)).status).toBe(200);
  const answer = once(socket, 'data');
  socket.write(JSON.stringify(good));
  expect(String((await answer)[0])).toMatch(/^HTTP\/1.1 200 /);
  socket.destroy();
  // All of it is given back.
  for (let n = 0; n < 10; n++) {
    expect((await postJson(small, large)).status).toBe(200);
    expect((await post(small, `${JSON.stringify(large)}\n`.repeat(4), LINES)).status).toBe(200);
    expect((await post(small, '{'.repeat(80_000))).status).toBe(400);
    expect((await post(small, `${'\n'.repeat(200_000)}${JSON.stringify(good)}`, LINES)).status).toBe(200);
  }
});

test.skipIf(process.platform !== 'linux')('400 clients that hold bodies of 1 MiB take little memory', async () => {
  const { url, child } = await listening();
  const body = Buffer.from(JSON.stringify({ ...good, attributes: { text: 'x'.repeat(1024 * 1024 - 100) } }));
  const condition = new Condition();
  const sockets: net.Socket[] = [];
  const answers: string[] = [];
  const length = `Content-Length: ${body.length}`;
  for (let n = 0; n < 400; n++) {
    const socket = await connectTo(url);
    sockets.push(socket);
    socket.once('data', (text) => {
      answers.push(String(text).slice(0, 12));
      condition.changed();
    });
    socket.write(`POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n${length}\r\n\r\n`);
    socket.write(body.subarray(0, -1));
  }
  await condition.until(() => answers.length === 400 - 64); // 64 fit
  expect(new Set(answers)).toEqual(new Set(['HTTP/1.1 503']));
  expect(peakMemory(child.pid!)).toBeLessThan(450);
  for (const socket of sockets) socket.destroy();
});

test.skipIf(process.platform !== 'linux')(
  'clients that send thousands of requests ahead take little memory',
  async () => {
    const { url, child } = await listening();
    const sockets = await Promise.all(Array.from({ length: 50 }, () => connectTo(url)));
    const ends = sockets.map((socket) => {
      socket.pause();
      socket.write('GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(2_000));
      return new Promise((resolve) => socket.once('close', resolve));
    });
    for (const socket of sockets) socket.resume();
    await Promise.all(ends);
    expect((await postJson({ url }, good)).status).toBe(200);
    expect(peakMemory(child.pid!)).toBeLessThan(450);
  },
);

test('a few requests sent ahead are answered in their order', async () => {
  const socket = await connectTo(producer.url);
  let received = '';
  socket.setEncoding('utf8').on('data', (text) => {
    received += text;
  });
  socket.write(
    'POST /ingest HTTP/1.1\r\nHost: a\r\n\r\nGET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
  );
  await once(socket, 'close');
  expect(received.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 200', 'HTTP/1.1 200', 'HTTP/1.1 404']);
});

test('past INGEST_MAX_CONNECTIONS a connection is closed, and the others go on', async () => {
  const few = await producers.start({ INGEST_MAX_CONNECTIONS: '2' });
  const [first, second] = [await connectTo(few.url), await connectTo(few.url)];
  const third = await connectTo(few.url);
  await once(third, 'close');
  second.write('GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n');
  expect(String((await once(second, 'data'))[0])).toMatch(/^HTTP\/1.1 200 /);
  first.destroy();
  second.destroy();
});

test.each([
  ['what is no HTTP', 'HELLO\r\n\r\n', 400],
  ['a request without Host', 'GET /healthz HTTP/1.1\r\n\r\n', 400],
  ['headers that are too long', `GET / HTTP/1.1\r\nHost: a\r\nX-Large: ${'x'.repeat(17 * 1024)}\r\n\r\n`, 431],
  ['headers that never end', 'GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ', 408],
  ['a chunk that is none', 'POST /ingest HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', 400],
  ['an expectation', 'POST /ingest HTTP/1.1\r\nHost: a\r\nExpect: cake\r\nConnection: close\r\n\r\n', 417],
])('%s is answered with problem+json', async (_what, text, status) => {
  const slow = await producers.start({ INGEST_RECEIVE_TIMEOUT_MS: '200' });
  const socket = await connectTo(slow.url);
  let received = '';
  socket.setEncoding('utf8').on('data', (part) => {
    received += part;
  });
  socket.write(text);
  await once(socket, 'close');
  const [head, body] = received.split('\r\n\r\n');
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} [\\s\\S]*Content-Type: application/problem\\+json`));
  expect(JSON.parse(body!)).toMatchObject({ status, detail: expect.any(String) });
});

test('what can not be parsed after a request in flight is not taken for its answer', async () => {
  const locked = await producers.start();
  await producers.lock();
  const socket = await connectTo(locked.url);
  let received = '';
  socket.on('data', (part) => {
    received += part;
  });
  socket.write('POST /ingest HTTP/1.1\r\nHost: a\r\n\r\n');
  await producers.insertsWait(1);
  socket.write('HELLO\r\n\r\n');
  await once(socket, 'close');
  await producers.unlock();
  expect(received).toBe('');
});
