/** Overload, and a database that does not answer: clients hear it in time, and it ends with its cause. */
import { once } from 'node:events';
import net from 'node:net';
import type { Service } from '@pg-signals/runtime';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
import { NO_SERVER, post, postJson, useProducers, useProxy } from './testProducer.ts';

const producers = useProducers();
const proxied = useProxy(producers);
const { lock, unlock, insertsWait } = producers;
beforeEach(() => producers.client.query('DELETE FROM signals'));
afterEach(unlock);

const named = (name: string) => ({ signal_name: name, signal_value: 1 });

/** Resolves when so many signals wait for the database. */
const signalsWait = ({ url }: Service, count: number) =>
  vi.waitFor(async () => {
    const metrics = await (await fetch(`${url}/metrics`)).text();
    expect(metrics).toMatch(new RegExp(`^signals_ingest_waiting ${count}$`, 'm'));
  }, 20_000);

const ready = async ({ url }: Service) => {
  const response = await fetch(`${url}/readyz`);
  return { status: response.status, body: (await response.json()) as { detail?: string } };
};

test('past INGEST_MAX_QUEUE it is 503 with Retry-After at once, and what waits is inserted', async () => {
  const producer = await producers.start({ INGEST_MAX_QUEUE: '3' });
  await lock();
  const first = postJson(producer, named('in flight'));
  await insertsWait(1);
  const waiting = ['a', 'b', 'c'].map((name) => postJson(producer, named(name)));
  await signalsWait(producer, 3);
  const rejected = await postJson(producer, named('too much'));
  expect([rejected.status, rejected.headers.get('retry-after'), rejected.body.may_be_in]).toEqual([503, '1', false]);
  expect(rejected.body.detail).toContain('was not inserted');
  const lines = await post(producer, JSON.stringify(named('line')), { 'Content-Type': 'application/x-ndjson' });
  expect(lines).toMatchObject({ status: 503, body: { accepted: 0, next_line: 1 } });
  await unlock();
  const answers = await Promise.all([first, ...waiting]);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  expect((await producers.names()).sort()).toEqual(['a', 'b', 'c', 'in flight']);
});

test('past INGEST_MAX_QUEUE_BYTES it is 503 too', async () => {
  const producer = await producers.start({ INGEST_MAX_QUEUE_BYTES: '10000' });
  await lock();
  const first = postJson(producer, named('in flight'));
  await insertsWait(1);
  const large = (name: string) => ({ ...named(name), attributes: { text: 'x'.repeat(9_000) } });
  const waiting = postJson(producer, large('waits'));
  await signalsWait(producer, 1);
  expect((await postJson(producer, large('too much'))).status).toBe(503);
  await unlock();
  expect([(await first).status, (await waiting).status]).toEqual([200, 200]);
});

test('past INGEST_TIMEOUT_MS it is 503, which says whether the signal may be in', async () => {
  const producer = await producers.start({ INGEST_TIMEOUT_MS: '1000' });
  await lock();
  const sent = postJson(producer, named('sent'), { 'Idempotency-Key': 'sent' });
  await insertsWait(1);
  const waiting = postJson(producer, named('waiting'));
  const answers = await Promise.all([sent, waiting]);
  expect(answers.map(({ status, headers }) => [status, headers.get('retry-after')])).toEqual([
    [503, '1'],
    [503, '1'],
  ]);
  expect(answers[0].body).toMatchObject({ may_be_in: true, detail: expect.stringContaining('may have been inserted') });
  await unlock();
  // With its key it is safe to send again, whether it was inserted or not.
  expect((await postJson(producer, named('sent'), { 'Idempotency-Key': 'sent' })).status).toBe(200);
  expect((await producers.names()).filter((name) => name === 'sent')).toHaveLength(1);
});

test('an insert that timed out is cancelled at the server: none piles up behind a lock', async () => {
  const producer = await producers.start({ INGEST_TIMEOUT_MS: '1000' });
  await lock();
  for (let n = 0; n < 2; n++) expect((await postJson(producer, named('given up'))).status).toBe(503);
  await insertsWait(0);
  await unlock();
  expect((await postJson(producer, named('after'))).status).toBe(200);
  expect(await producers.names()).toEqual(['after']);
});

/** Sends one signal after another on so many connections until it is stopped. */
function load(producer: { url: string }, connections: number) {
  let stopped = false;
  const statuses: number[] = [];
  const condition = new Condition();
  const send = async () => {
    while (!stopped) {
      const { status } = await postJson(producer, named('load'));
      statuses.push(status);
      condition.changed();
    }
  };
  const done = Promise.all(Array.from({ length: connections }, send));
  const count = (status: number) => statuses.filter((other) => other === status).length;
  return {
    statuses,
    count,
    /** Resolves when so many requests were answered with this status. */
    answered: (status: number, times: number) => condition.until(() => count(status) >= times),
    async stop() {
      stopped = true;
      await done;
    },
  };
}

test('a database that goes silent under load leaves a producer that works again as soon as it answers', async () => {
  const producer = await producers.start({ DATABASE_URL: proxied.url, INGEST_TIMEOUT_MS: '1000' });
  const traffic = load(producer, 20);
  await traffic.answered(200, 100);
  const restore = proxied.silence();
  await traffic.answered(503, 60); // three timeouts of every connection
  restore();
  const before = traffic.count(200);
  await traffic.answered(200, before + 100);
  await traffic.stop();
  expect(new Set(traffic.statuses)).toEqual(new Set([200, 503]));
  expect((await producers.names()).length).toBeGreaterThanOrEqual(before);
  expect((await ready(producer)).status).toBe(200);
});

test('while the database is silent /readyz is 503 within INGEST_TIMEOUT_MS, with a connection and without one', async () => {
  const producer = await producers.start({ DATABASE_URL: proxied.url, INGEST_TIMEOUT_MS: '400' });
  expect((await ready(producer)).status).toBe(200);
  const restore = proxied.silence();
  for (const reason of ['no answer within 400 ms', 'no database connection within 400 ms']) {
    for (let probe = 0; probe < 2; probe++) {
      const detail = 'The database does not answer: the log says why.';
      expect(await ready(producer)).toMatchObject({ status: 503, body: { detail } });
    }
    expect(producers.log.match(new RegExp(`WARN Not ready reason="${reason}"`, 'g'))).toHaveLength(1);
  }
  restore();
  expect((await ready(producer)).status).toBe(200);
});

test('a connection lost during an insert is 500 and says that the signal may be in', async () => {
  const { proxy, url } = proxied;
  const producer = await producers.start({ DATABASE_URL: url });
  await lock();
  const sent = postJson(producer, named('lost'));
  await insertsWait(1);
  const database = proxy.target;
  proxy.target = NO_SERVER;
  proxy.cut();
  expect(await sent).toMatchObject({ status: 500, body: { may_be_in: true } });
  await unlock();
  expect(await postJson(producer, named('none'))).toMatchObject({ status: 500, body: { may_be_in: false } });
  proxy.target = database;
  expect((await postJson(producer, named('back'))).status).toBe(200);
});

async function connectTo({ url }: { url: string }) {
  const socket = net.connect(Number(new URL(url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.setEncoding('utf8');
  let received = '';
  socket.on('data', (text) => {
    received += text;
  });
  return { socket, answer: once(socket, 'close').then(() => received) };
}

test.each([
  ['headers', 'POST /ingest HTTP/1.1\r\nHost: a\r\nX-Slow: '],
  ['a body', 'POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{'],
  [
    'a stream',
    'POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n',
  ],
])('a client that is slow with %s is cut off with 408', async (_what, text) => {
  const producer = await producers.start({ INGEST_RECEIVE_TIMEOUT_MS: '200' });
  const { socket, answer } = await connectTo(producer);
  socket.write(text);
  expect(await answer).toMatch(/^HTTP\/1.1 408 /);
});

test('headers over 16 KiB are 431', async () => {
  const producer = await producers.start();
  const { socket, answer } = await connectTo(producer);
  socket.write(`POST /ingest HTTP/1.1\r\nHost: a\r\nX-Large: ${'x'.repeat(17 * 1024)}\r\n\r\n`);
  expect(await answer).toMatch(/^HTTP\/1.1 431 /);
});

test('a body that no route reads does not hold its connection', async () => {
  const producer = await producers.start();
  const { socket, answer } = await connectTo(producer);
  socket.write('GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n');
  expect(await answer).toMatch(/^HTTP\/1.1 200 /);
});

test('the signal of a client that goes away is still inserted', async () => {
  const producer = await producers.start();
  await lock();
  const abort = new AbortController();
  const body = JSON.stringify(named('left'));
  const headers = { 'Content-Type': 'application/json' };
  const gone = fetch(`${producer.url}/ingest`, { method: 'POST', body, headers, signal: abort.signal });
  await insertsWait(1);
  abort.abort();
  await expect(gone).rejects.toThrow();
  await unlock();
  await postJson(producer, named('later'));
  expect(await producers.names()).toEqual(['left', 'later']);
});

test('a stop answers the requests it has taken first', async () => {
  const producer = await producers.start();
  await lock();
  const first = postJson(producer, named('first'));
  await insertsWait(1);
  const second = postJson(producer, named('second'));
  await signalsWait(producer, 1);
  const stopped = producer.stop();
  await unlock();
  expect([(await first).status, (await second).status]).toEqual([200, 200]);
  await stopped;
});
