/** Overload and a database that stalls: said at once, within bounds, and over when the cause is. */
import { once } from 'node:events';
import net from 'node:net';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { type SilentProxy, startSilentProxy } from './silentProxy.ts';
import { type Answer, post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
let proxy: SilentProxy;
beforeAll(async () => {
  proxy = await startSilentProxy(producers.databaseUrl);
});
beforeEach(async () => {
  proxy.resume();
  await producers.client.query('DELETE FROM signals');
});
afterEach(unlock);
afterAll(() => proxy.close());

const named = (name: string) => ({ signal_name: name, signal_value: 1 });
const lock = () => producers.client.query('BEGIN; LOCK TABLE signals IN EXCLUSIVE MODE');
function unlock() {
  return producers.client.query('COMMIT');
}

/** Resolves when that many inserts of producers wait for a lock. */
const insertsWait = (count: number) =>
  vi.waitFor(async () => {
    // Not on the client that holds the lock: within a transaction pg_stat_activity stays as it was seen first.
    const { rows } = await producers.pool.query(
      `SELECT FROM pg_stat_activity
       WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'pg-signals producer'`,
    );
    expect(rows).toHaveLength(count);
  }, 10_000);

async function metric(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1]);
}

test('past INGEST_MAX_QUEUE it is 503 with Retry-After at once, and what waits goes in', async () => {
  const producer = await producers.start({ INGEST_MAX_QUEUE: '3' });
  await lock();
  const first = postJson(producer, named('in flight'));
  await insertsWait(1);
  const waiting = ['a', 'b', 'c'].map((name) => postJson(producer, named(name)));
  await vi.waitFor(async () => expect(await metric(producer.url, 'signals_ingest_waiting')).toBe(3), 10_000);
  const refused = await postJson(producer, named('too much'));
  expect([refused.status, refused.headers.get('retry-after'), refused.body.may_be_in]).toEqual([503, '1', false]);
  expect(refused.body.detail).toContain('has not gone in');
  const lines = await post(producer, JSON.stringify(named('line')), { 'Content-Type': 'application/x-ndjson' });
  expect(lines).toMatchObject({ status: 503, body: { accepted: 0, next_line: 1 } });
  await unlock();
  const answers = await Promise.all([first, ...waiting]);
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
  expect((await producers.names()).sort()).toEqual(['a', 'b', 'c', 'in flight']);
});

test('past INGEST_MAX_QUEUE_BYTES too', async () => {
  const producer = await producers.start({ INGEST_MAX_QUEUE_BYTES: '10000' });
  await lock();
  const first = postJson(producer, named('in flight'));
  await insertsWait(1);
  const large = (name: string) => ({ ...named(name), attributes: { text: 'x'.repeat(9_000) } });
  const waiting = postJson(producer, large('waits'));
  await vi.waitFor(async () => expect(await metric(producer.url, 'signals_ingest_waiting')).toBe(1), 10_000);
  expect((await postJson(producer, large('too much'))).status).toBe(503);
  await unlock();
  expect([(await first).status, (await waiting).status]).toEqual([200, 200]);
});

test('past INGEST_TIMEOUT_MS it is 503, which tells what may be in from what is not', async () => {
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
  expect(answers[0].body).toMatchObject({ may_be_in: true, detail: expect.stringContaining('may have gone in') });
  await unlock();
  // With its key it is safe to send again, whether it went in or not.
  expect((await postJson(producer, named('sent'), { 'Idempotency-Key': 'sent' })).status).toBe(200);
  expect((await producers.names()).filter((name) => name === 'sent')).toHaveLength(1);
});

test('an insert that was given up is cancelled at the server: none piles up behind a lock', async () => {
  const producer = await producers.start({ INGEST_TIMEOUT_MS: '300' });
  await lock();
  for (let n = 0; n < 4; n++) expect((await postJson(producer, named('given up'))).status).toBe(503);
  await insertsWait(0);
  await unlock();
  expect((await postJson(producer, named('after'))).status).toBe(200);
  expect(await producers.names()).toEqual(['after']);
});

/** Sends one signal after another on so many connections until told to stop; resolves with the statuses. */
function load(producer: { url: string }, connections: number) {
  let stopped = false;
  const statuses: number[] = [];
  const send = async () => {
    while (!stopped) {
      const answer: Answer = await postJson(producer, named('load'));
      statuses.push(answer.status);
    }
  };
  const done = Promise.all(Array.from({ length: connections }, send));
  return {
    statuses,
    async stop() {
      stopped = true;
      await done;
    },
  };
}

test('a database that goes silent under load leaves a service that works again by itself at once', async () => {
  const producer = await producers.start({ DATABASE_URL: proxy.url, INGEST_TIMEOUT_MS: '500' });
  const traffic = load(producer, 20);
  const answered = (status: number, atLeast: number) =>
    vi.waitFor(
      () => expect(traffic.statuses.filter((s) => s === status).length).toBeGreaterThanOrEqual(atLeast),
      20_000,
    );
  await answered(200, 100);
  proxy.silence();
  await answered(503, 60); // three deadlines of every connection
  proxy.resume();
  const before = traffic.statuses.filter((status) => status === 200).length;
  await answered(200, before + 100);
  await traffic.stop();
  expect(new Set(traffic.statuses)).toEqual(new Set([200, 503]));
  expect((await producers.names()).length).toBeGreaterThanOrEqual(before);
  expect((await fetch(`${producer.url}/readyz`)).status).toBe(200);
});

test('a connection lost in the middle of an insert is 500 and says that the signal may be in', async () => {
  const producer = await producers.start({ DATABASE_URL: proxy.url });
  await lock();
  const sent = postJson(producer, named('lost'));
  await insertsWait(1);
  proxy.cut();
  expect(await sent).toMatchObject({ status: 500, body: { may_be_in: true } });
  await unlock();
  expect(await postJson(producer, named('none'))).toMatchObject({ status: 500, body: { may_be_in: false } });
  proxy.resume();
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

test('a body that nobody asked for does not hold its connection', async () => {
  const producer = await producers.start();
  const { socket, answer } = await connectTo(producer);
  socket.write('GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n');
  expect(await answer).toMatch(/^HTTP\/1.1 200 /);
});

test('a caller who goes away loses nothing: the signal is still in', async () => {
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

test('a stop finishes what was taken', async () => {
  const producer = await producers.start();
  await lock();
  const first = postJson(producer, named('first'));
  await insertsWait(1);
  const second = postJson(producer, named('second'));
  await vi.waitFor(async () => expect(await metric(producer.url, 'signals_ingest_waiting')).toBe(1), 10_000);
  const stopped = producer.stop();
  await unlock();
  expect([(await first).status, (await second).status]).toEqual([200, 200]);
  await stopped;
});
