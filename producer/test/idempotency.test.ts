/** Idempotency keys: the same key gives the same row, from any client and at any time. */
import { createPublisher, PublishError } from 'pg-signals';
import { expect, test } from 'vitest';
import { post, postJson, useProducers } from './testProducer.ts';

const producers = useProducers();
const named = (name: string) => ({ signal_name: name, signal_value: 1 });
const countOf = async (name: string) => (await producers.names()).filter((other) => other === name).length;

test('the same key again gives the same row and answer, and inserts once', async () => {
  const producer = await producers.start();
  const send = () => postJson(producer, { ...named('again'), attributes: { a: 1 } }, { 'Idempotency-Key': 'again' });
  const first = await send();
  expect(first.status).toBe(200);
  expect(await send()).toMatchObject({ status: 200, body: first.body });
  expect(await countOf('again')).toBe(1);
});

test('the same key with another body is 409, and inserts nothing', async () => {
  const producer = await producers.start();
  const headers = { 'Idempotency-Key': 'other' };
  expect((await postJson(producer, named('one'), headers)).status).toBe(200);
  expect(await postJson(producer, named('two'), headers)).toMatchObject({
    status: 409,
    body: { detail: 'The key other stands for another signal already.' },
  });
  expect(await countOf('two')).toBe(0);
});

test('a random signal with a key is the same random signal again', async () => {
  const producer = await producers.start();
  const first = await post(producer, undefined, { 'Idempotency-Key': 'random' });
  expect(await post(producer, undefined, { 'Idempotency-Key': 'random' })).toMatchObject({ body: first.body });
});

test('requests with one key at the same time, through two producers, give one row', async () => {
  const both = [await producers.start(), await producers.start()];
  const answers = await Promise.all(
    Array.from({ length: 40 }, (_, n) =>
      postJson(both[n % 2]!, named(`at once ${n >> 3}`), { 'Idempotency-Key': `at-once-${n >> 3}` }),
    ),
  );
  expect(answers.map(({ status }) => status)).toEqual(Array(40).fill(200));
  for (let group = 0; group < 5; group++) {
    const ids = answers.slice(group * 8, group * 8 + 8).map(({ body }) => body.id);
    expect(new Set(ids).size).toBe(1);
    expect(await countOf(`at once ${group}`)).toBe(1);
  }
});

test('in one batch the same key gives one row, and with another signal it fails for one of the two alone', async () => {
  const publisher = createPublisher(producers.pool);
  const outcomes = await Promise.allSettled([
    publisher.publish({ ...named('batch'), key: 'batch' }),
    publisher.publish(named('bystander')),
    publisher.publish({ ...named('batch'), key: 'batch' }),
    publisher.publish({ ...named('batch changed'), key: 'batch' }),
    publisher.publish({ ...named('neighbour'), key: 'neighbour' }),
  ]);
  expect(outcomes.map(({ status }) => status)).toEqual([
    'fulfilled',
    'fulfilled',
    'fulfilled',
    'rejected',
    'fulfilled',
  ]);
  expect(outcomes[2]).toEqual(outcomes[0]);
  expect((outcomes[3] as PromiseRejectedResult).reason).toMatchObject({ failure: 'key-conflict', mayBeIn: false });
  expect([await countOf('batch'), await countOf('bystander'), await countOf('neighbour')]).toEqual([1, 1, 1]);
});

test('an array sent again under its key gives the same ids; with one signal more it is 409', async () => {
  const producer = await producers.start();
  const headers = { 'Idempotency-Key': 'array' };
  const signals = [named('in array'), named('in array')];
  const first = await postJson(producer, signals, headers);
  expect(first.body).toEqual({ accepted: 2, ids: [expect.any(Number), expect.any(Number)] });
  expect((await postJson(producer, signals, headers)).body).toEqual(first.body);
  expect((await postJson(producer, [...signals, named('more')], headers)).status).toBe(409);
  expect([await countOf('in array'), await countOf('more')]).toEqual([2, 0]);
});

test('of an array with a key on each signal only the new ones are inserted', async () => {
  const producer = await producers.start();
  const [a, b] = ['a', 'b'].map((key) => ({ ...named('keyed'), key }));
  const first = await postJson(producer, [a]);
  const second = await postJson(producer, [a, b]);
  expect(second.body).toEqual({ accepted: 2, ids: [first.body.ids[0], expect.any(Number)] });
  expect(await countOf('keyed')).toBe(2);
});

test('after a conflict in an array neither its signals nor its other keys are stored', async () => {
  const producer = await producers.start();
  await postJson(producer, { ...named('taken'), key: 'taken' });
  const array = [
    { ...named('free'), key: 'free' },
    { ...named('not this'), key: 'taken' },
  ];
  expect((await postJson(producer, array)).status).toBe(409);
  expect(await countOf('free')).toBe(0);
  expect((await postJson(producer, { ...named('free, later'), key: 'free' })).status).toBe(200);
});

test.each([
  ['that is empty', ''],
  ['with a space', 'a b'],
  ['of 256 characters', 'x'.repeat(256)],
])('a key %s is 400, or 422 in a signal', async (_what, key) => {
  const producer = await producers.start();
  const answer = await postJson(producer, named('bad key'), { 'Idempotency-Key': key });
  expect(answer).toMatchObject({ status: 400, body: { detail: expect.stringContaining('1 to 255 visible') } });
  expect(await postJson(producer, { ...named('bad key'), key })).toMatchObject({ status: 422 });
});

test('a key of the signal and one of the request is 400', async () => {
  const producer = await producers.start();
  const answer = await postJson(producer, { ...named('both'), key: 'a' }, { 'Idempotency-Key': 'b' });
  expect(answer.status).toBe(400);
});

test('a signal without a key writes nothing to signal_keys', async () => {
  const publisher = createPublisher(producers.pool);
  const keys = async () => (await producers.client.query('SELECT count(*) FROM signal_keys')).rows;
  const before = await keys();
  await publisher.publish(named('no key'));
  expect(await keys()).toEqual(before);
});

test('a key whose signal was deleted says so', async () => {
  const publisher = createPublisher(producers.pool);
  const { id } = await publisher.publish({ ...named('gone'), key: 'gone' });
  await producers.client.query('DELETE FROM signals WHERE id = $1', [id]);
  const again = publisher.publish({ ...named('gone'), key: 'gone' });
  await expect(again).rejects.toThrow(PublishError);
  await expect(again).rejects.toThrow(`The key gone stands for the signal ${id}, which has been deleted`);
});
