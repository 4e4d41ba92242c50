/** A stop under load: no client notices more than the end of its connection. */
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { expect, test } from 'vitest';
import { Condition } from '../../client/test/testListener.ts';
import { useProcesses } from './producerProcess.ts';
import { postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const { listening } = useProcesses(producers);
const named = (name: string) => ({ signal_name: name, signal_value: 1 });

/** Sends one request after another on so many kept connections, each until its connection is refused or breaks. */
function keepAliveLoad(url: string, connections: number) {
  const condition = new Condition();
  let answered = 0;
  const ends: string[] = [];
  const loop = async () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (;;) {
      const request = http.request(`${url}/ingest`, { method: 'POST', agent }).end();
      try {
        const [response] = (await once(request, 'response')) as [http.IncomingMessage];
        await response.toArray();
        if (response.statusCode !== 200) ends.push(`status ${response.statusCode}`);
        answered++;
        condition.changed();
      } catch (error) {
        ends.push((error as NodeJS.ErrnoException).code ?? String(error));
        agent.destroy();
        return;
      }
    }
  };
  const done = Promise.all(Array.from({ length: connections }, loop)).then(() => ends);
  return { done, answers: (count: number) => condition.until(() => answered >= count), answered: () => answered };
}

test.each(['1', '2'])(
  'under load on 32 kept connections to %s workers no request is lost to a reset',
  async (INGEST_WORKERS) => {
    const { url, child, exited } = await listening({ INGEST_WORKERS });
    const before = (await producers.names()).length;
    const load = keepAliveLoad(url, 32);
    await load.answers(500);
    child.kill('SIGTERM');
    expect(new Set(await load.done)).toEqual(new Set(['ECONNREFUSED']));
    expect(await exited).toBe(0);
    expect((await producers.names()).length - before).toBe(load.answered());
  },
);

test('a request in flight is answered, and the client told to close its connection', async () => {
  const producer = await producers.start();
  await producers.lock();
  const sent = postJson(producer, named('in flight'));
  await producers.insertsWait(1);
  const stopped = producer.stop();
  await producers.unlock();
  const { status, headers } = await sent;
  expect([status, headers.get('connection')]).toEqual([200, 'close']);
  await stopped;
});

test('for SHUTDOWN_DRAIN_MS it takes new connections, while /readyz is 503', async () => {
  const { url, child, exited, logged } = await listening({ SHUTDOWN_DRAIN_MS: '1000' });
  child.kill('SIGTERM');
  await logged('Stopping');
  const ready = await fetch(`${url}/readyz`);
  expect([ready.status, await ready.json()]).toMatchObject([503, { detail: 'The producer is stopping.' }]);
  expect((await postJson({ url }, named('drained'), { Connection: 'close' })).status).toBe(200);
  expect(await exited).toBe(0);
});

async function connectTo(url: string) {
  const socket = net.connect(Number(new URL(url).port), '127.0.0.1');
  await once(socket, 'connect');
  socket.setEncoding('utf8');
  let received = '';
  socket.on('data', (text) => {
    received += text;
  });
  return { socket, answer: once(socket, 'close').then(() => received) };
}

test('an open stream gets its report, with the line to go on from', async () => {
  const producer = await producers.start();
  const before = (await producers.names()).length;
  const { socket, answer } = await connectTo(producer.url);
  const line = `${JSON.stringify(named('streamed'))}\n`;
  const chunk = `${line.length.toString(16)}\r\n${line}\r\n`;
  socket.write(
    `POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n${chunk}${chunk}`,
  );
  await producers.holds(before + 2);
  const [text] = await Promise.all([answer, producer.stop()]);
  expect(text).toMatch(/^HTTP\/1.1 503 [\s\S]*\r\nConnection: close\r\n/i);
  expect(JSON.parse(text.split('\r\n\r\n')[1]!)).toMatchObject({ accepted: 2, refused: 0, next_line: 3 });
});

test.each([
  [
    'a body',
    'POST /ingest HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{',
    /^HTTP\/1.1 503 /,
  ],
  ['headers', 'POST /ingest HTTP/1.1\r\nHost: a\r\nX-Slow: ', /^$/],
  ['nothing', '', /^$/],
])('a client that is slow with %s does not hold up a stop', async (_what, text, expected) => {
  const producer = await producers.start();
  const { socket, answer } = await connectTo(producer.url);
  socket.write(text);
  await postJson(producer, named('later')); // by then the server has read the first one
  await producer.stop();
  expect(await answer).toMatch(expected);
});

test('a client that never reads its answers does not hold up a stop', async () => {
  const producer = await producers.start();
  const socket = net.connect(Number(new URL(producer.url).port), '127.0.0.1').pause();
  socket.on('error', () => {});
  await once(socket, 'connect');
  // More than the buffers of both sides hold.
  const requests = 'GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n'.repeat(20);
  for (let n = 0; n < 50; n++) socket.write(requests);
  await postJson(producer, named('later'));
  await producer.stop();
  socket.destroy();
});
