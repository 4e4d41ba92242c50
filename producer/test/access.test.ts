/** Who may send signals: tokens, and browsers on pages of other sites. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import http from 'node:http';
import path from 'node:path';
import type { Service } from '@pg-signals/runtime';
import { beforeAll, expect, test } from 'vitest';
import { readProducerSettings } from '../src/index.ts';
import { post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const [OLD, NEW] = ['0ld~token', 'n3w.token/with+all=='];
const SIGNAL = { signal_name: 'a', signal_value: 1 };
const LINES = { 'Content-Type': 'application/x-ndjson' };
let open: Service;
let guarded: Service;
beforeAll(async () => {
  open = await producers.start();
  guarded = await producers.start({ INGEST_TOKEN: `${NEW}, ${OLD}` });
});

const count = async () => (await producers.client.query('SELECT count(*)::int FROM signals')).rows[0].count;

test('with INGEST_TOKEN each of its tokens lets a signal in, as JSON, as lines and without a body', async () => {
  for (const token of [OLD, NEW]) {
    for (const scheme of ['Bearer', 'bearer']) {
      const headers = { Authorization: `${scheme} ${token}` };
      expect((await postJson(guarded, SIGNAL, headers)).status).toBe(200);
      expect((await post(guarded, JSON.stringify(SIGNAL), { ...LINES, ...headers })).status).toBe(200);
      expect((await post(guarded, undefined, headers)).status).toBe(200);
    }
  }
});

test.each([
  ['no token', undefined],
  ['a wrong one', `Bearer ${OLD}x`],
  ['more than the longest one', `Bearer ${NEW}=`],
  ['much more', `Bearer ${NEW}${'='.repeat(1_000)}`],
  ['the start of one', `Bearer ${OLD.slice(0, -1)}`],
  ['both at once', `Bearer ${NEW}, ${OLD}`],
  ['an empty one', 'Bearer '],
  ['another scheme', `Basic ${OLD}`],
  ['the token alone', OLD],
])('with %s it is 401 and nothing goes in', async (_, authorization) => {
  const before = await count();
  const given: Record<string, string> = authorization === undefined ? {} : { Authorization: authorization };
  const answers = [
    await postJson(guarded, SIGNAL, given),
    await post(guarded, JSON.stringify(SIGNAL), { ...LINES, ...given }),
    await post(guarded, undefined, given),
  ];
  for (const { status, headers, body } of answers) {
    expect([status, headers.get('content-type')]).toEqual([401, 'application/problem+json']);
    expect(headers.get('www-authenticate')).toMatch(/^Bearer realm="pg-signals"/);
    expect(JSON.stringify(body)).not.toContain(OLD.slice(0, -1));
  }
  // Another way to the same route of express.
  const other = await fetch(`${guarded.url}/INGEST/`, { method: 'POST', headers: given });
  expect(other.status).toBe(401);
  expect(await count()).toBe(before);
});

test('health and metrics need no token', async () => {
  for (const path of ['/healthz', '/readyz', '/metrics']) {
    expect((await fetch(guarded.url + path)).status).toBe(200);
  }
});

/** With headers that fetch would not let us set. */
async function postAs(headers: Record<string, string>): Promise<number | undefined> {
  const request = http.request(`${open.url}/ingest`, { method: 'POST', agent: false, headers });
  request.end();
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  response.resume();
  return response.statusCode;
}

test("a browser's post is refused where it comes from a page of another site", async () => {
  const { host, origin } = new URL(open.url);
  const before = await count();
  for (const site of ['cross-site', 'same-site']) {
    expect(await postAs({ 'Sec-Fetch-Site': site, Origin: 'https://evil.example' })).toBe(403);
  }
  for (const other of ['https://evil.example', 'null', `http://${host}.evil.example`, 'http://localhost:1', '']) {
    expect(await postAs({ Origin: other })).toBe(403);
  }
  expect(await count()).toBe(before);
  for (const headers of [{}, { 'Sec-Fetch-Site': 'same-origin' }, { 'Sec-Fetch-Site': 'none' }, { Origin: origin }]) {
    expect(await postAs(headers as Record<string, string>)).toBe(200);
  }
});

test('with INGEST_RANDOM=false a request without a body is 422', async () => {
  const strict = await producers.start({ INGEST_RANDOM: 'false' });
  const before = await count();
  expect(await post(strict)).toMatchObject({ status: 422, body: { detail: 'The body is empty: expected a signal.' } });
  expect(await count()).toBe(before);
  expect((await postJson(strict, SIGNAL)).status).toBe(200);
});

test.each(['a b', 'a,', ',', 'ä', 'a,\u0007'])('INGEST_TOKEN is wrong as %j, and is not repeated', (INGEST_TOKEN) => {
  const read = () => readProducerSettings({ DATABASE_URL: 'postgres://h/d', INGEST_TOKEN });
  expect(read).toThrow(/^INGEST_TOKEN: expected tokens of visible ASCII characters, with a comma between two$/);
});

test('npm run send sends the first token, one signal or a file, and stops where it is refused', async () => {
  const send = async (args: string[], input: string, INGEST_TOKEN: string) => {
    const main = path.join(import.meta.dirname, '../src/send/main.ts');
    const child = spawn(process.execPath, [main, ...args, '--url', `${guarded.url}/ingest`], {
      cwd: '/',
      env: { PATH: process.env.PATH, INGEST_TOKEN },
      stdio: ['pipe', 'ignore', 'pipe'],
    });
    child.stdin.on('error', () => {}); // it may end before it has read all
    child.stdin.end(input);
    const errors = (await child.stderr.setEncoding('utf8').toArray()).join('');
    return { code: child.exitCode ?? (await once(child, 'exit'))[0], errors };
  };
  const one = ['--name', 'a', '--value', '1'];
  const file = ['--file', '-', '--id', 'a'];
  const lines = `${JSON.stringify(SIGNAL)}\n`.repeat(20_000);
  expect(await send(one, '', `${OLD},${NEW}`)).toMatchObject({ code: 0 });
  expect(await send(file, lines, OLD)).toMatchObject({ code: 0 });
  for (const token of ['', 'wrong']) {
    const rejected = { code: 1, errors: expect.stringMatching(/^rejected(?!.*wrong)/) };
    expect(await send(one, '', token)).toEqual(rejected);
    expect(await send(file, lines, token)).toEqual(rejected);
  }
});
