/** Many signals in one request: arrays, NDJSON, compressed bodies. */
import { once } from 'node:events';
import net from 'node:net';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { deflateSync, gzipSync } from 'node:zlib';
import type { Service } from '@pg-signals/runtime';
import { beforeAll, beforeEach, expect, test } from 'vitest';
import { post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
let producer: Service;
beforeAll(async () => {
  producer = await producers.start({ INGEST_MAX_BATCH: '1000' });
});
beforeEach(async () => {
  await producers.client.query('DELETE FROM signals');
});

const named = (name: string) => ({ signal_name: name, signal_value: 1 });
const LINES = { 'Content-Type': 'application/x-ndjson' };
const lines = (...values: unknown[]) => values.map((value) => `${JSON.stringify(value)}\n`).join('');
const postLines = (text: string | Buffer, headers = {}) => post(producer, text as string, { ...LINES, ...headers });

test('a byte order mark before the first line is ignored', async () => {
  expect(await postLines(`\ufeff${lines(named('a'), named('b'))}`)).toMatchObject({
    status: 200,
    body: { accepted: 2 },
  });
});

test('an array is one transaction, and its answer has the ids in order', async () => {
  const names = Array.from({ length: 1_000 }, (_, n) => `s${n}`);
  const { status, body } = await postJson(producer, names.map(named));
  expect([status, body.accepted]).toEqual([200, 1_000]);
  expect(body.ids).toEqual([...body.ids].sort((a, b) => a - b));
  expect(await producers.names()).toEqual(names);
  expect(await producers.transactions()).toBe(1);
});

test('one invalid signal in an array is 422 with its index, and nothing is inserted', async () => {
  const answer = await postJson(producer, [named('a'), { signal_name: '' }, named('b'), 7]);
  expect(answer).toMatchObject({
    status: 422,
    body: {
      errors: [
        { pointer: '/1/signal_name' },
        { pointer: '/1/signal_value' },
        { pointer: '/3', detail: 'expected an object, got 7' },
      ],
    },
  });
  expect(await producers.names()).toEqual([]);
});

test('a signal of an array that the database refuses is named by its index too', async () => {
  const bad = { ...named('year 0'), timestamp: '0000-01-01T00:00:00Z' };
  const answer = await postJson(producer, [named('a'), bad, named('b'), named('c'), bad]);
  expect(answer).toMatchObject({ status: 422, body: { errors: [{ pointer: '/1' }, { pointer: '/4' }] } });
  expect(await producers.names()).toEqual([]);
});

test('an empty array is 200', async () => {
  expect(await postJson(producer, [])).toMatchObject({ status: 200, body: { accepted: 0, ids: [] } });
});

test('NDJSON is one transaction for each INGEST_MAX_BATCH lines', async () => {
  const names = Array.from({ length: 2_500 }, (_, n) => `s${n}`);
  const { status, body } = await postLines(lines(...names.map(named)));
  expect([status, body]).toEqual([200, { accepted: 2_500, refused: 0, errors: [] }]);
  expect(await producers.names()).toEqual(names);
  expect(await producers.transactions()).toBe(3);
});

test('the last line needs no newline, lines may end with CRLF, and empty lines are skipped', async () => {
  const text = `${JSON.stringify(named('a'))}\r\n\n  \n${JSON.stringify(named('b'))}`;
  expect((await postLines(text)).body).toEqual({ accepted: 2, refused: 0, errors: [] });
});

test('bad lines are counted and reported with number and reason, and good ones are inserted', async () => {
  const text = [
    JSON.stringify(named('good')),
    '{"signal_name":',
    '',
    JSON.stringify({ signal_name: 'a' }),
    JSON.stringify({ ...named('year 0'), timestamp: '0000-01-01T00:00:00Z' }),
    JSON.stringify({ ...named('long'), attributes: { text: 'x'.repeat(1024 * 1024) } }),
    JSON.stringify(named('fine')),
  ].join('\n');
  const { status, body } = await postLines(text);
  expect([status, body.accepted, body.refused]).toEqual([200, 2, 4]);
  expect(body.errors).toEqual([
    { line: 2, detail: expect.stringContaining('not JSON') },
    { line: 4, detail: expect.stringContaining('/signal_value: expected a finite number, got nothing') },
    { line: 5, detail: expect.stringContaining('out of range') },
    { line: 6, detail: 'longer than 1048576 bytes (INGEST_MAX_BODY)' },
  ]);
  expect(await producers.names()).toEqual(['good', 'fine']);
});

test('a line that is not UTF-8 fails alone', async () => {
  const text = Buffer.concat([Buffer.from([0x22, 0xff, 0x0a]), Buffer.from(lines(named('ü')))]);
  expect((await postLines(text)).body).toMatchObject({ accepted: 1, errors: [{ line: 1, detail: 'not UTF-8' }] });
});

test('only the first 100 bad lines are reported, but all are counted', async () => {
  const { status, body } = await postLines(`${'x\n'.repeat(5_000)}${lines(named('a'))}`);
  expect([status, body.accepted, body.refused, body.errors.length]).toEqual([200, 1, 5_000, 100]);
  expect(body.errors.at(-1).line).toBe(100);
});

test('a stream without a valid line is 422', async () => {
  expect(await postLines('x\ny\n')).toMatchObject({ status: 422, body: { accepted: 0, refused: 2 } });
  for (const nothing of ['\n\n', '']) {
    expect(await postLines(nothing)).toMatchObject({ status: 422, body: { detail: 'The body holds no signal.' } });
  }
});

test('each line may have a key, and the same lines sent again are inserted once', async () => {
  const text = lines(...['a', 'b', 'b'].map((key) => ({ ...named(key), key })));
  expect((await postLines(text)).body.accepted).toBe(3);
  expect((await postLines(text)).body.accepted).toBe(3);
  expect(await producers.names()).toEqual(['a', 'b']);
  const other = await postLines(lines({ ...named('other'), key: 'a' }));
  expect(other).toMatchObject({
    status: 422,
    body: { errors: [{ line: 1, detail: expect.stringContaining('key a') }] },
  });
});

test('a key for a whole stream is 400', async () => {
  expect((await postLines(lines(named('a')), { 'Idempotency-Key': 'k' })).status).toBe(400);
});

test('each line of a stream is logged', async () => {
  producers.log = '';
  await postLines(lines(named('a'), named('b')));
  expect(producers.log.match(/INFO Inserting data into database signal_name=[ab] signal_value=1\n/g)).toHaveLength(2);
});

/** A request whose body the test sends piece by piece. */
async function openStream() {
  const socket = net.connect(Number(new URL(producer.url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.write(
    'POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n',
  );
  const send = (text: string) => {
    const flushed = socket.write(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`);
    return { flushed };
  };
  return { socket, send };
}

test('what was committed stays when the client breaks off', async () => {
  const { socket, send } = await openStream();
  send(lines(...Array.from({ length: 1_500 }, (_, n) => named(`s${n}`))));
  await producers.holds(1_000);
  socket.destroy();
  expect((await postJson(producer, named('after'))).status).toBe(200);
  expect(await producers.names()).toContain('s999');
});

test('when a client pauses, what it sent so far is inserted', async () => {
  const { socket, send } = await openStream();
  send(lines(named('live')));
  await producers.holds(1);
  expect(await producers.names()).toEqual(['live']);
  socket.destroy();
});

test('a stream waits while the database does, in bounded memory', async () => {
  await producers.lock();
  const { socket, send } = await openStream();
  socket.on('error', () => {});
  // Of 64 MiB, back-pressure lets through no more than the buffers on the way hold.
  const block = lines({ ...named('block'), attributes: { text: 'x'.repeat(64 * 1024) } }).repeat(4);
  let sent = 0;
  for (let still = 0; still < 50 && sent < 64 * 1024 * 1024; ) {
    if (socket.writableNeedDrain) {
      still++;
      await sleep(20);
    } else {
      still = 0;
      send(block);
      sent += block.length;
      await nextTurn();
    }
  }
  expect(sent).toBeLessThan(48 * 1024 * 1024);
  await producers.unlock();
  const [answer] = await Promise.all([once(socket, 'data'), socket.write('0\r\n\r\n')]);
  expect(String(answer)).toMatch(/^HTTP\/1.1 200 /);
  expect(await producers.names()).toHaveLength((sent / block.length) * 4);
  socket.destroy();
});

test.each([
  ['gzip', gzipSync],
  ['deflate', deflateSync],
])('bodies may be compressed with %s', async (encoding, compress) => {
  const headers = { 'Content-Encoding': encoding };
  const one = await post(producer, compress(JSON.stringify(named('one'))) as never, {
    'Content-Type': 'application/json',
    ...headers,
  });
  expect(one).toMatchObject({ status: 200, body: { signal_name: 'one' } });
  expect((await postLines(compress(lines(named('two'), named('three'))), headers)).body.accepted).toBe(2);
  expect(await producers.names()).toEqual(['one', 'two', 'three']);
});

test('a compressed body that decompresses to too much is 413', async () => {
  const bomb = gzipSync(Buffer.alloc(64 * 1024 * 1024, ' '));
  const json = { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' };
  expect(await post(producer, bomb as never, json)).toMatchObject({ status: 413 });
  const small = await producers.start({ INGEST_MAX_DECOMPRESSED: '1000000' });
  const before = lines(...Array.from({ length: 1_000 }, (_, n) => named(`s${n}`)));
  const compressed = gzipSync(before + ' \n'.repeat(1_000_000));
  const answer = await post(small, compressed as never, { ...LINES, 'Content-Encoding': 'gzip' });
  expect(answer).toMatchObject({ status: 413, body: { accepted: 1_000, next_line: 1_001 } });
});

test.each([
  ['a body that is not compressed as it says is 400', Buffer.from('hello'), 'gzip', 400],
  ['a compressed body that is cut short is 400', gzipSync(lines(named('a'))).subarray(0, -12), 'gzip', 400],
  ['another encoding is 415', Buffer.from('hello'), 'br', 415],
])('%s', async (_name, body, encoding, status) => {
  for (const type of ['application/json', 'application/x-ndjson']) {
    const answer = await post(producer, body as never, { 'Content-Type': type, 'Content-Encoding': encoding });
    expect(answer.status).toBe(status);
  }
});
