/** What /metrics says of a producer: what went in, what did not, and why. */
import type { Service } from '@pg-signals/runtime';
import { afterEach, beforeAll, expect, test } from 'vitest';
import { post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
afterEach(() => producers.unlock());
let producer: Service;
beforeAll(async () => {
  producer = await producers.start({ INGEST_TIMEOUT_MS: '500', INGEST_MAX_QUEUE: '1' });
});

/** The samples by name and labels. */
async function metrics({ url } = producer): Promise<Record<string, number>> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Object.fromEntries(
    text.split('\n').map((line) => [line.replace(/ \S+$/, ''), Number(line.split(' ').at(-1))]),
  );
}

/** How much each of these samples grows while `work` runs. */
async function growth(work: () => Promise<unknown>, ...samples: string[]): Promise<number[]> {
  const before = await metrics();
  await work();
  const after = await metrics();
  return samples.map((name) => (after[name] ?? 0) - (before[name] ?? 0));
}

const named = (name: string) => ({ signal_name: name, signal_value: 1 });
const failed = (reason: string) => `signals_ingest_failed_total{reason="${reason}"}`;

test('rows that are new are told apart from idempotency keys that come again', async () => {
  const keyed = (key: string) => ({ ...named(key), key });
  const send = async () => {
    for (let n = 0; n < 3; n++) await postJson(producer, keyed('a'));
    await postJson(producer, [keyed('a'), keyed('b'), named('no key')]);
    const lines = ['b', 'c', 'c'].map((key) => JSON.stringify(keyed(key))).join('\n');
    await post(producer, lines, { 'Content-Type': 'application/x-ndjson' });
  };
  const rows = (await producers.names()).length;
  expect(await growth(send, 'signals_ingested_total', 'signals_ingest_repeated_total')).toEqual([4, 5]);
  expect((await producers.names()).length - rows).toBe(4);
});

test('what fails is counted by its reason, a signal each', async () => {
  const yearZero = { ...named('a'), timestamp: '0000-01-01T00:00:00Z' };
  const send = async () => {
    await postJson(producer, {});
    await postJson(producer, [{}, named('a'), {}]);
    await postJson(producer, yearZero);
    const lines = ['{}', JSON.stringify(yearZero), JSON.stringify(named('good'))].join('\n');
    await post(producer, lines, { 'Content-Type': 'application/x-ndjson' });
    await postJson(producer, { ...named('a'), key: 'k' });
    await postJson(producer, { ...named('b'), key: 'k' });
  };
  expect(await growth(send, ...['invalid', 'refused', 'key-conflict'].map(failed))).toEqual([5, 2, 1]);
});

test('what never became a signal is counted, a request each', async () => {
  const send = async () => {
    await post(producer, '{');
    await post(producer, ' '.repeat(1024 * 1024 + 1));
    await post(producer, 'x', { 'Content-Type': 'text/plain' });
  };
  expect(await growth(send, ...['malformed', 'too-large', 'wrong-type'].map(failed))).toEqual([1, 1, 1]);
});

test('overload and time limits are counted too, with the time that they took', async () => {
  const send = async () => {
    await producers.lock();
    const first = postJson(producer, named('in flight'));
    await producers.insertsWait(1);
    const answers = await Promise.all([first, postJson(producer, named('a')), postJson(producer, named('b'))]);
    expect(answers.map(({ status }) => status)).toEqual([503, 503, 503]);
  };
  const sums = ['count', 'sum'].map((what) => `signals_ingest_failed_duration_seconds_${what}{reason="timeout"}`);
  const [timeouts, overloads, count, seconds] = await growth(send, failed('timeout'), failed('overloaded'), ...sums);
  expect([timeouts, overloads, count]).toEqual([2, 1, 2]);
  expect(seconds).toBeGreaterThan(0.9);
});

test('the connections of the pool are told, and the build', async () => {
  await postJson(producer, named('a'));
  expect(await metrics()).toMatchObject({
    'signals_pool_connections{state="idle"}': expect.any(Number),
    'signals_pool_connections{state="used"}': 0,
    signals_pool_waiting: 0,
    [`signals_build_info{version="0.1.0",node="${process.version}"}`]: 1,
  });
  await producers.lock();
  const sent = postJson(producer, named('waits'));
  await producers.insertsWait(1);
  expect((await metrics())['signals_pool_connections{state="used"}']).toBe(1);
  await producers.unlock();
  await sent;
});
