/** The answer to each kind of request, down to the bytes: status, type and length. */
import http from 'node:http';
import type { Service } from '@pg-signals/runtime';
import { beforeAll, expect, test } from 'vitest';
import { useProducers } from './testProducer.ts';

const producers = useProducers();

interface RawAnswer {
  status: number | undefined;
  headers: http.IncomingHttpHeaders;
  body: Buffer;
}

/** Sends a request without fetch, which would add headers and hide those of the answer. */
function send({ url }: Service, { body, headers = {}, method = 'POST', path = '/ingest' }: Send): Promise<RawAnswer> {
  const { promise, resolve, reject } = Promise.withResolvers<RawAnswer>();
  const request = http.request(url + path, { method, headers }, async (response) => {
    const chunks = await response.toArray();
    resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) });
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
  ['another encoding', { body: signal, headers: { ...JSON_TYPE, 'Content-Encoding': 'br' } }, 415],
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

let service: Service;
beforeAll(async () => {
  service = await producers.start();
});

test.each(cases)('%s', async (_name, request, status) => {
  const answer = await send(service, request);
  expect(answer.status).toBe(status);
  expect(answer.headers['content-type']).toMatch(status === 200 ? /^application\/json/ : /^application\/problem\+json/);
  expect(answer.headers['content-length']).toBe(String(answer.body.length));
  if (status !== 200) expect(JSON.parse(answer.body.toString())).toMatchObject({ status, detail: expect.any(String) });
});
