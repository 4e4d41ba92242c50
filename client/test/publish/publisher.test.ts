/** createPublisher: group commit from a program, against the real table. */
import { createPool } from '@pg-signals/db';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import { useProducers } from '../../../producer/test/testProducer.ts';
import { createPublisher, type NewSignal, PublishError } from '../../src/index.ts';

const producers = useProducers();
beforeEach(async () => {
  await producers.client.query('DELETE FROM signals');
});

const named = (name: string): NewSignal => ({ signal_name: name, signal_value: 1 });
const yearZero = (name: string): NewSignal => ({ ...named(name), timestamp: '0000-01-01T00:00:00Z' });
const transactions = async () =>
  Number((await producers.client.query('SELECT count(DISTINCT xid) FROM signals')).rows[0].count);

test('publish resolves after the commit with the row as the table has it', async () => {
  const publisher = createPublisher(producers.pool);
  const row = await publisher.publish({
    signal_name: 'temperature',
    signal_value: 21.5,
    timestamp: '2026-04-02T18:23:17.120+02:00',
    attributes: { b: 1, a: ['"', '\\', '{}', 'é', null] },
  });
  expect(row).toEqual({
    id: expect.any(Number),
    timestamp: '2026-04-02T16:23:17.12+00:00',
    signal_name: 'temperature',
    signal_value: 21.5,
    attributes: { b: 1, a: ['"', '\\', '{}', 'é', null] },
  });
  expect((await producers.client.query('SELECT id::int FROM signals')).rows).toEqual([{ id: row.id }]);
  expect((await publisher.publish(named('bare'))).attributes).toEqual({});
});

test('a hundred at once go in with a few transactions, and each caller gets its own row', async () => {
  const publisher = createPublisher(producers.pool);
  const names = Array.from({ length: 100 }, (_, n) => `s${n}, "{\\}"`);
  const rows = await Promise.all(names.map((name) => publisher.publish(named(name))));
  expect(rows.map(({ signal_name }) => signal_name)).toEqual(names);
  expect(await producers.names()).toEqual(names);
  expect(await transactions()).toBeLessThanOrEqual(2);
});

test('a row that the database refuses fails its own caller alone', async () => {
  const publisher = createPublisher(producers.pool);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 50 }, (_, n) => publisher.publish(n === 17 ? yearZero('bad') : named(`s${n}`))),
  );
  expect(outcomes.flatMap(({ status }, index) => (status === 'rejected' ? [index] : []))).toEqual([17]);
  expect((outcomes[17] as PromiseRejectedResult).reason).toMatchObject({ failure: 'refused', mayBeIn: false });
  expect(await producers.names()).toHaveLength(49);
});

test('a wrong field is told before anything is sent', async () => {
  const publisher = createPublisher(producers.pool);
  await expect(publisher.publish({ signal_name: 'a', signal_value: Number.NaN })).rejects.toMatchObject({
    failure: 'invalid',
    errors: [{ pointer: '/signal_value' }],
  });
  await expect(publisher.publishAll([named('a'), named('')])).rejects.toMatchObject({
    failure: 'invalid',
    errors: [{ pointer: '/1/signal_name' }],
  });
  expect(await producers.names()).toEqual([]);
});

test('publishAll is all or nothing, and names what the database refuses', async () => {
  const publisher = createPublisher(producers.pool);
  const rows = await publisher.publishAll([named('a'), named('b')]);
  expect(rows.map(({ signal_name }) => signal_name)).toEqual(['a', 'b']);
  expect(await transactions()).toBe(1);
  await expect(publisher.publishAll([named('c'), yearZero('d')])).rejects.toMatchObject({
    failure: 'refused',
    errors: [{ pointer: '/1' }],
  });
  expect(await producers.names()).toEqual(['a', 'b']);
});

test('publishEach keeps the good ones and says what is wrong with the others', async () => {
  const publisher = createPublisher(producers.pool);
  const outcomes = await publisher.publishEach([named('a'), named(''), yearZero('b'), named('c'), yearZero('d')]);
  expect(outcomes.map((error) => error?.failure)).toEqual([undefined, 'invalid', 'refused', undefined, 'refused']);
  expect(await producers.names()).toEqual(['a', 'c']);
});

test('publishEach inserts after what it is told to wait for, and nothing where that fails', async () => {
  const publisher = createPublisher(producers.pool);
  const before = Promise.withResolvers<void>();
  const waiting = publisher.publishEach([named('second')], { after: before.promise });
  await publisher.publish(named('first'));
  before.resolve();
  expect(await waiting).toEqual([undefined]);
  const failed = publisher.publishEach([named('third')], { after: Promise.reject(new Error('no')) });
  await expect(failed).rejects.toThrow('no');
  expect(await producers.names()).toEqual(['first', 'second']);
});

test('after an error that is no signal of its own, publishEach inserts none of those that follow', async () => {
  await producers.client.query(`
    CREATE FUNCTION deadlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'deadlock' USING ERRCODE = '40P01'; END $$;
    CREATE TRIGGER deadlock BEFORE INSERT ON signals FOR EACH ROW WHEN (NEW.signal_name = 'dead') EXECUTE FUNCTION deadlock()`);
  try {
    const publisher = createPublisher(producers.pool);
    // The year 0 is refused before any row is inserted; of the halves the first then fails for another reason.
    const outcomes = await publisher.publishEach([named('a'), named('dead'), named('b'), yearZero('c')]);
    expect(outcomes.map((error) => error?.failure)).toEqual(Array(4).fill('unavailable'));
    expect(await producers.names()).toEqual([]);
  } finally {
    await producers.client.query('DROP FUNCTION deadlock CASCADE');
  }
});

test('who asks for a row gets it, also in one transaction with those who do not', async () => {
  const publisher = createPublisher(producers.pool);
  const before = await transactions();
  const [each, row] = await Promise.all([
    publisher.publishEach([named('a'), named('b')]),
    publisher.publish(named('c')),
  ]);
  expect(await transactions()).toBe(before + 1);
  expect(each).toEqual([undefined, undefined]);
  expect(row).toMatchObject({ id: expect.any(Number), signal_name: 'c' });
});

test('close finishes what was taken, and takes no more', async () => {
  const publisher = createPublisher(producers.pool);
  const last = publisher.publish(named('last'));
  await publisher.close();
  expect(await producers.names()).toEqual(['last']);
  await last;
  await expect(publisher.publish(named('late'))).rejects.toThrow('the publisher is closed');
});

test('close waits for those that are not sent yet, and what comes later is told', async () => {
  const publisher = createPublisher(producers.pool);
  const before = Promise.withResolvers<void>();
  const waiting = publisher.publishEach([named('a'), yearZero('b')], { after: before.promise });
  const closing = publisher.close();
  before.resolve();
  await closing;
  expect(await producers.names()).toEqual(['a']);
  expect((await waiting).map((error) => error?.failure)).toEqual([undefined, 'refused']);
  expect((await publisher.publishEach([named('late')])).map((error) => error?.failure)).toEqual(['unavailable']);
  await expect(publisher.publishAll([named('late')])).rejects.toThrow('the publisher is closed');
});

test('with several transactions in flight every row goes in once', async () => {
  const publisher = createPublisher(producers.pool, { maxInFlight: 4, maxBatch: 5 });
  const names = Array.from({ length: 200 }, (_, n) => `s${n}`);
  await Promise.all(names.map((name) => publisher.publish(named(name))));
  expect((await producers.names()).sort()).toEqual(names.sort());
});

test('two publishers on pools of their own, at once, lose nothing and double nothing', async () => {
  const other = createPool({ connectionString: producers.databaseUrl, application_name: 'another host' });
  const publishers = [createPublisher(producers.pool), createPublisher(other)];
  const names = Array.from({ length: 1_000 }, (_, n) => `s${n}`);
  const rows = await Promise.all(names.map((name, n) => publishers[n % 2]!.publish(named(name))));
  expect(rows.map(({ signal_name }) => signal_name)).toEqual(names);
  expect(new Set(rows.map(({ id }) => id)).size).toBe(1_000);
  expect((await producers.names()).sort()).toEqual(names.sort());
  await other.end();
});

let single: pg.Pool;
beforeAll(() => {
  single = createPool({ connectionString: producers.databaseUrl, application_name: 'single', max: 1 });
});
afterAll(() => single.end());

test('a session that loses its prepared statements, as behind a pooler, does no harm', async () => {
  const publisher = createPublisher(single);
  await publisher.publish(named('prepared'));
  await single.query('DEALLOCATE ALL');
  await publisher.publish(named('unprepared'));
  await publisher.publish(named('and on'));
  expect(await producers.names()).toEqual(['prepared', 'unprepared', 'and on']);
});

test('a refused row costs no connection', async () => {
  const publisher = createPublisher(single);
  const session = async () => (await single.query('SELECT pg_backend_pid() AS pid')).rows[0].pid;
  const before = await session();
  await expect(publisher.publish(yearZero('bad'))).rejects.toThrow(PublishError);
  expect(await session()).toBe(before);
});

test('a session that the server ends fails what was in flight, and the next one is another', async () => {
  const publisher = createPublisher(single);
  await producers.client.query('BEGIN; LOCK TABLE signals IN EXCLUSIVE MODE');
  const { pid } = (await single.query('SELECT pg_backend_pid() AS pid')).rows[0];
  const lost = publisher.publish(named('lost'));
  const ended = expect(lost).rejects.toMatchObject({ failure: 'unavailable', mayBeIn: true });
  await vi.waitFor(async () => {
    const waits = `SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'`;
    expect((await producers.pool.query(waits, [pid])).rows).toHaveLength(1);
  }, 10_000);
  await producers.pool.query('SELECT pg_terminate_backend($1)', [pid]);
  await ended;
  await producers.client.query('COMMIT');
  await publisher.publish(named('next'));
  expect(await producers.names()).toContain('next');
});
