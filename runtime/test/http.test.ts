import { once } from 'node:events';
import http from 'node:http';
import { networkInterfaces } from 'node:os';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { createApp, type HttpServer, listen } from '../src/http.ts';
import { createLogger } from '../src/logger.ts';
import { createMetrics } from '../src/metrics.ts';
import { Problem } from '../src/problem.ts';

const hasIPv6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ address }) => address === '::1'),
);
if (!hasIPv6) process.stderr.write('skipped: an HTTP server on ::1, which this machine does not have\n');

let server: HttpServer;
let log = '';
let reason: string | undefined;
let answerSlow = Promise.withResolvers<void>();

beforeEach(async () => {
  log = '';
  reason = undefined;
  answerSlow = Promise.withResolvers();
  const logger = createLogger({ write: (lines) => (log += lines) });
  const app = createApp({
    about: 'A service for tests.',
    logger,
    metrics: createMetrics(logger, { totalCount: 0, idleCount: 0, waitingCount: 0 }),
    ready: async () => {
      if (reason) throw new Error(reason);
    },
    routes: {
      '/slow': {
        get: async (_request, response) => {
          response.flushHeaders();
          await answerSlow.promise;
          response.end('done');
        },
      },
      '/fails': { get: () => Promise.reject(new Error('no such column: hunter2')) },
      '/refuses': { post: () => Promise.reject(new Problem(422, 'Not this one.', { members: { errors: [1] } })) },
    },
  });
  server = await listen(app, 0);
});
afterEach(() => server.stop());

// A kept connection would make each stop wait for its next request.
const get = (path: string, init?: RequestInit) =>
  fetch(`${server.url}${path}`, { ...init, headers: { Connection: 'close' } });

test('/healthz answers in every state of the service', async () => {
  reason = 'no database';
  expect(await (await get('/healthz')).json()).toEqual({ status: 'ok' });
});

test('/readyz is 200 when the service can work, and 503 with the reason when it cannot', async () => {
  expect((await get('/readyz')).status).toBe(200);
  reason = 'no database';
  const response = await get('/readyz');
  expect(response.headers.get('content-type')).toBe('application/problem+json');
  expect(await response.json()).toEqual({ title: 'Service Unavailable', status: 503, detail: 'no database' });
});

test('/ tells a person in plain text what the service is and where to go', async () => {
  const response = await get('/');
  expect(response.headers.get('content-type')).toBe('text/plain; charset=utf-8');
  const text = await response.text();
  expect(text).toMatch(/^A service for tests\.\n/);
  for (const path of ['/healthz', '/readyz', '/metrics']) expect(text).toContain(`GET ${path} `);
});

test('/metrics is in the Prometheus format', async () => {
  expect(await (await get('/metrics')).text()).toContain('process_cpu_seconds_total');
});

test('an unknown path is answered 404 with the paths that exist', async () => {
  const response = await get('/nowhere');
  expect(response.status).toBe(404);
  expect(await response.json()).toMatchObject({
    detail: expect.stringContaining('/refuses, /healthz, /readyz, /metrics'),
  });
});

test('a wrong method is answered 405 with Allow', async () => {
  const response = await get('/refuses');
  expect([response.status, response.headers.get('allow')]).toEqual([405, 'POST']);
  expect((await get('/healthz', { method: 'DELETE' })).headers.get('allow')).toBe('GET, HEAD');
});

test('a problem is answered as it is', async () => {
  const response = await get('/refuses', { method: 'POST' });
  expect([response.status, await response.json()]).toEqual([
    422,
    { title: 'Unprocessable Entity', status: 422, detail: 'Not this one.', errors: [1] },
  ]);
});

test('any other error is answered as a bare 500 and logged whole', async () => {
  const body = await (await get('/fails')).text();
  expect(JSON.parse(body)).toMatchObject({ status: 500 });
  expect(body).not.toContain('hunter2');
  expect(log).toContain('hunter2');
});

test('a malformed path is answered 404', async () => {
  const request = http.get(`${server.url}/%ZZ`);
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  expect(response.statusCode).toBe(404);
  response.resume();
});

test('a port that is taken is reported with the variable that changes it', async () => {
  await expect(listen(() => {}, Number(new URL(server.url).port))).rejects.toThrow(/Port \d+ is taken .* set PORT/);
});

test.skipIf(!hasIPv6)('an IPv6 address makes a valid URL', async () => {
  const six = await listen((_request, response) => void response.end(), 0, { host: '::1' });
  expect(six.url).toMatch(/^http:\/\/\[::1\]:\d+$/);
  expect((await fetch(six.url)).status).toBe(200);
  await six.stop();
});

test('an address that the machine does not have is reported as HOST', async () => {
  for (const host of ['192.0.2.1', 'no-such-host.invalid']) {
    await expect(listen(() => {}, 0, { host })).rejects.toThrow(`HOST: this machine has no address ${host}`);
  }
});

test('stop lets a request in flight finish, accepts no new one, and may be called twice', async () => {
  const slow = await get('/slow');
  const stopped = Promise.all([server.stop(), server.stop()]);
  await expect(get('/healthz')).rejects.toThrow();
  answerSlow.resolve();
  expect(await slow.text()).toBe('done');
  await stopped;
});
