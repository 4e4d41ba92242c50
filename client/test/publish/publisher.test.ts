/** createPublisher on the real table. */
import { createPool } from '@pg-signals/db';
import type pg from 'pg';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createPublisher, type NewSignal, PublishError } from '../../src/index.ts';
import { useTable } from './testTable.ts';

const table = useTable();
beforeEach(async () => {
  await table.client.query('DELETE FROM signals');
});

const named = (name: string): NewSignal => ({ signal_name: name, signal_value: 1 });
/** A signal that passes our own check, and that the table refuses. */
const yearZero = (name: string): NewSignal => ({ ...named(name), timestamp: '0000-01-01T00:00:00Z' });

/** Runs the test with a trigger that fails on the name `dead`, with an error that is no refusal of a row. */
async function failOnDead(run: () => Promise<void>): Promise<void> {
  await table.client.query(`
    CREATE FUNCTION deadlock() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'deadlock' USING ERRCODE = '40P01'; END $$;
    CREATE TRIGGER deadlock BEFORE INSERT ON signals FOR EACH ROW WHEN (NEW.signal_name = 'dead') EXECUTE FUNCTION deadlock()`);
  try {
    await run();
  } finally {
    await table.client.query('DROP FUNCTION deadlock CASCADE');
  }
}

let single: pg.Pool;
beforeAll(() => {
  single = createPool({ connectionString: table.databaseUrl, application_name: 'single', max: 1 });
});
afterAll(() => single.end());

test('publish resolves after the commit with the row as the table has it', async () => {
  const publisher = createPublisher(table.pool);
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
  expect((await table.client.query('SELECT id::int FROM signals')).rows).toEqual([{ id: row.id }]);
  expect((await publisher.publish(named('bare'))).attributes).toEqual({});
});

test('a hundred calls at once take at most two transactions, and each gets its own row', async () => {
  const publisher = createPublisher(table.pool);
  const names = Array.from({ length: 100 }, (_, n) => `s${n}, "{\\}"`);
  const rows = await Promise.all(names.map((name) => publisher.publish(named(name))));
  expect(rows.map(({ signal_name }) => signal_name)).toEqual(names);
  expect(await table.names()).toEqual(names);
  expect(await table.transactions()).toBeLessThanOrEqual(2);
});

test('a row that the database refuses fails its own caller alone', async () => {
  const publisher = createPublisher(table.pool);
  const outcomes = await Promise.allSettled(
    Array.from({ length: 50 }, (_, n) => publisher.publish(n === 17 ? yearZero('bad') : named(`s${n}`))),
  );
  expect(outcomes.flatMap(({ status }, index) => (status === 'rejected' ? [index] : []))).toEqual([17]);
  expect((outcomes[17] as PromiseRejectedResult).reason).toMatchObject({ failure: 'refused', mayBeIn: false });
  expect(await table.names()).toHaveLength(49);
});

test('a signal with an invalid field is rejected before anything is sent', async () => {
  const publisher = createPublisher(table.pool);
  await expect(publisher.publish({ signal_name: 'a', signal_value: Number.NaN })).rejects.toMatchObject({
    failure: 'invalid',
    errors: [{ pointer: '/signal_value' }],
  });
  await expect(publisher.publishAll([named('a'), named('')])).rejects.toMatchObject({
    failure: 'invalid',
    errors: [{ pointer: '/1/signal_name' }],
  });
  expect(await table.names()).toEqual([]);
});

test('publishAll is all or nothing, and names what the database refuses', async () => {
  const publisher = createPublisher(table.pool);
  const rows = await publisher.publishAll([named('a'), named('b')]);
  expect(rows.map(({ signal_name }) => signal_name)).toEqual(['a', 'b']);
  expect(await table.transactions()).toBe(1);
  await expect(publisher.publishAll([named('c'), yearZero('d')])).rejects.toMatchObject({
    failure: 'refused',
    errors: [{ pointer: '/1' }],
  });
  expect(await table.names()).toEqual(['a', 'b']);
});

test('publishAll lets the process do other work while it checks many', async () => {
  const publisher = createPublisher(table.pool);
  let turns = 0;
  const count = () => {
    turns++;
    turn = setImmediate(count);
  };
  let turn = setImmediate(count);
  const signals = [...Array<NewSignal>(10_000).fill(named('a')), named('')];
  await expect(publisher.publishAll(signals)).rejects.toMatchObject({ failure: 'invalid' });
  clearImmediate(turn);
  expect(turns).toBeGreaterThan(5);
});

test('publishAll reports the first hundred errors, and those of the database too', async () => {
  const publisher = createPublisher(table.pool);
  for (const bad of [named(''), yearZero('bad')]) {
    const error = await publisher.publishAll(Array<NewSignal>(150).fill(bad)).catch((error) => error);
    expect(error.errors).toHaveLength(100);
  }
});

test('publishEach keeps the good ones and says what is wrong with the others', async () => {
  const publisher = createPublisher(table.pool);
  const outcomes = await publisher.publishEach([named('a'), named(''), yearZero('b'), named('c'), yearZero('d')]);
  expect(outcomes.map((error) => error?.failure)).toEqual([undefined, 'invalid', 'refused', undefined, 'refused']);
  expect(await table.names()).toEqual(['a', 'c']);
});

test('publishEach inserts when `after` resolves, and nothing where it rejects', async () => {
  const publisher = createPublisher(table.pool);
  const before = Promise.withResolvers<void>();
  const waiting = publisher.publishEach([named('second')], { after: before.promise });
  await publisher.publish(named('first'));
  before.resolve();
  expect(await waiting).toEqual([undefined]);
  const failed = publisher.publishEach([named('third')], { after: Promise.reject(new Error('no')) });
  await expect(failed).rejects.toThrow('no');
  expect(await table.names()).toEqual(['first', 'second']);
});

test('after an error that no signal is to blame for, publishEach inserts nothing more', async () => {
  await failOnDead(async () => {
    const publisher = createPublisher(table.pool);
    // The year 0 is refused before any row is inserted; then the first half fails for another reason.
    const outcomes = await publisher.publishEach([named('a'), named('dead'), named('b'), yearZero('c')]);
    expect(outcomes.map((error) => error?.failure)).toEqual(Array(4).fill('unavailable'));
    expect(await table.names()).toEqual([]);
  });
});

test('a search for refused rows that fails itself leaves no open transaction on its connection', async () => {
  await failOnDead(async () => {
    const publisher = createPublisher(single);
    const failed = publisher.publishAll([named('dead'), yearZero('a')]);
    await expect(failed).rejects.toMatchObject({ failure: 'refused', errors: [] });
    await publisher.publish(named('next'));
    expect(await table.names()).toEqual(['next']);
  });
});

test('publish gets its row, also in one transaction with signals whose rows no one wants', async () => {
  const publisher = createPublisher(table.pool);
  const before = await table.transactions();
  const [each, row] = await Promise.all([
    publisher.publishEach([named('a'), named('b')]),
    publisher.publish(named('c')),
  ]);
  expect(await table.transactions()).toBe(before + 1);
  expect(each).toEqual([undefined, undefined]);
  expect(row).toMatchObject({ id: expect.any(Number), signal_name: 'c' });
});

test('close waits for the calls before it, and later calls are rejected', async () => {
  const publisher = createPublisher(table.pool);
  const last = publisher.publish(named('last'));
  await publisher.close();
  expect(await table.names()).toEqual(['last']);
  await last;
  await expect(publisher.publish(named('late'))).rejects.toThrow('the publisher is closed');
});

test('close also waits for calls that have not sent anything yet', async () => {
  const publisher = createPublisher(table.pool);
  const before = Promise.withResolvers<void>();
  const waiting = publisher.publishEach([named('a'), yearZero('b')], { after: before.promise });
  const closing = publisher.close();
  before.resolve();
  await closing;
  expect(await table.names()).toEqual(['a']);
  expect((await waiting).map((error) => error?.failure)).toEqual([undefined, 'refused']);
  expect((await publisher.publishEach([named('late')])).map((error) => error?.failure)).toEqual(['unavailable']);
  await expect(publisher.publishAll([named('late')])).rejects.toThrow('the publisher is closed');
});

test('with several transactions in flight every row is inserted once', async () => {
  const publisher = createPublisher(table.pool, { maxInFlight: 4, maxBatch: 5 });
  const names = Array.from({ length: 200 }, (_, n) => `s${n}`);
  await Promise.all(names.map((name) => publisher.publish(named(name))));
  expect((await table.names()).sort()).toEqual(names.sort());
});

test('two publishers at once, each with its own pool, lose nothing and double nothing', async () => {
  const other = createPool({ connectionString: table.databaseUrl, application_name: 'another host' });
  const publishers = [createPublisher(table.pool), createPublisher(other)];
  const names = Array.from({ length: 1_000 }, (_, n) => `s${n}`);
  const rows = await Promise.all(names.map((name, n) => publishers[n % 2]!.publish(named(name))));
  expect(rows.map(({ signal_name }) => signal_name)).toEqual(names);
  expect(new Set(rows.map(({ id }) => id)).size).toBe(1_000);
  expect((await table.names()).sort()).toEqual(names.sort());
  await other.end();
});

test('publishing goes on where a session loses its prepared statements, as behind a pooler', async () => {
  const publisher = createPublisher(single);
  await publisher.publish(named('prepared'));
  await single.query('DEALLOCATE ALL');
  await publisher.publish(named('unprepared'));
  await publisher.publish(named('and on'));
  expect(await table.names()).toEqual(['prepared', 'unprepared', 'and on']);
});

test('a refused row leaves the connection in the pool', async () => {
  const publisher = createPublisher(single);
  const session = async () => (await single.query('SELECT pg_backend_pid() AS pid')).rows[0].pid;
  const before = await session();
  await expect(publisher.publish(yearZero('bad'))).rejects.toThrow(PublishError);
  expect(await session()).toBe(before);
});

test('where the server ends the session, the insert in flight fails and the next one takes another session', async () => {
  const publisher = createPublisher(single);
  await table.lock();
  const { pid } = (await single.query('SELECT pg_backend_pid() AS pid')).rows[0];
  const lost = publisher.publish(named('lost'));
  const ended = expect(lost).rejects.toMatchObject({ failure: 'unavailable', mayBeIn: true });
  await table.insertsWait(1);
  await table.pool.query('SELECT pg_terminate_backend($1)', [pid]);
  await ended;
  await table.unlock();
  await publisher.publish(named('next'));
  expect(await table.names()).toContain('next');
});
