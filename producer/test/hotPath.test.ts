/** The two ways of POST /ingest, ahead of express and through it: same answers, same headers. */
import http from 'node:http';
import type { Service } from '@pg-signals/runtime';
import { beforeAll, describe, expect, test } from 'vitest';
import { useProducers } from './testProducer.ts';

const producers = useProducers();

interface RawAnswer {
  status: number | undefined;
  statusText: string | undefined;
  headers: Record<string, string>;
  body: unknown;
}

/** As it came over the wire, but for what differs between two answers in any case. */
function send({ url }: Service, { body, headers = {}, method = 'POST', path = '/ingest' }: Send): Promise<RawAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<RawAnswer>();
  const request = http.request(url + path, { method, headers }, async (response) => {
    const chunks = await response.toArray();
    const text = Buffer.concat(chunks).toString();
    const { date, ...rest } = response.headers as Record<string, string>;
    expect(date).toMatch(/GMT$/);
    if (rest['content-length'] !== undefined) rest['content-length'] = String(Number(rest['content-length']) > 0);
    resolve({ status: response.statusCode, statusText: response.statusMessage, headers: rest, body: neutral(text) });
  });
  request.on('error', reject);
  request.end(body);
  return promise;
}

interface Send {
  body?: string;
  headers?: Record<string, string>;
  method?: string;
  path?: string;
}

/** Ids, moments and random values are each row's own. */
function neutral(text: string): unknown {
  return JSON.parse(text, (name, value) => {
    if (['id', 'timestamp', 'signal_value'].includes(name)) return typeof value;
    return name === 'ids' ? value.length : value;
  });
}

const JSON_TYPE = { 'Content-Type': 'application/json' };
const signal = JSON.stringify({ signal_name: 'é', signal_value: 1, attributes: { a: [1, 'ü'] } });

const cases: [string, Send, number][] = [
  ['no body', {}, 200],
  ['a signal', { body: signal, headers: JSON_TYPE }, 200],
  ['a signal with a charset', { body: signal, headers: { 'Content-Type': 'Application/JSON; charset=utf-8' } }, 200],
  ['an array', { body: `[${signal},${signal}]`, headers: JSON_TYPE }, 200],
  ['lines', { body: `${signal}\nx\n`, headers: { 'Content-Type': 'application/x-ndjson' } }, 200],
  ['bad lines', { body: 'x\n', headers: { 'Content-Type': 'application/x-ndjson' } }, 422],
  ['malformed JSON', { body: '{"a":', headers: JSON_TYPE }, 400],
  ['a wrong field', { body: '{"signal_name":"","signal_value":1}', headers: JSON_TYPE }, 422],
  ['another type', { body: signal, headers: { 'Content-Type': 'text/plain' } }, 415],
  ['no type', { body: signal }, 415],
  ['another packing', { body: signal, headers: { ...JSON_TYPE, 'Content-Encoding': 'br' } }, 415],
  ['too long a body', { body: ' '.repeat(1024 * 1024 + 1), headers: JSON_TYPE }, 413],
  ['a bad key', { body: signal, headers: { ...JSON_TYPE, 'Idempotency-Key': 'a b' } }, 400],
  ['a key', { body: signal, headers: { ...JSON_TYPE, 'Idempotency-Key': 'k' } }, 200],
  [
    'a key with another body',
    { body: '{"signal_name":"a","signal_value":2}', headers: { ...JSON_TYPE, 'Idempotency-Key': 'k' } },
    409,
  ],
  ['a query', { path: '/ingest?a=1', body: signal, headers: JSON_TYPE }, 200],
  ['another method', { method: 'PUT', body: signal, headers: JSON_TYPE }, 405],
  ['another path', { path: '/ingests' }, 404],
];

describe.each([
  ['ahead of express', 'true'],
  ['through express', 'false'],
])('%s', (_way, hot) => {
  let service: Service;
  beforeAll(async () => {
    service = await producers.start({ INGEST_HOT_PATH: hot });
  });
  test.each(cases)('%s', async (_name, request, status) => {
    expect((await send(service, request)).status).toBe(status);
  });
});

describe('both ways', () => {
  let [hot, through]: Service[] = [];
  beforeAll(async () => {
    hot = await producers.start();
    through = await producers.start({ INGEST_HOT_PATH: 'false' });
  });
  test.each(cases)('give the same answer to %s, header by header', async (_name, request) => {
    expect(await send(hot!, request)).toEqual(await send(through!, request));
  });
});
