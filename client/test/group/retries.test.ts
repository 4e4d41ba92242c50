/** Rows that fail: run again, buried, in the order of their keys, whatever fails beside them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import pg from 'pg';
import { expect, test } from 'vitest';
import { type FeedRow, type FeedTable, Group } from '../../src/index.ts';
import { upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

const deadLetters = async () =>
  (
    await groups.client.query(
      'SELECT signal_id::int, signal, attempts, first_error, last_error FROM dead_letters ORDER BY id',
    )
  ).rows;
const retriesLeft = async () => (await groups.client.query('SELECT FROM signal_retries')).rowCount;

test('a row fails twice and succeeds the third time, each time later than before', async () => {
  const group = groups.make();
  const at: number[] = [];
  const member = group.join({}, ({ id }, { attempt }) => {
    if (id !== 2) return;
    at.push(performance.now());
    if (attempt < 3) throw new Error(`no ${attempt}`);
  });
  await member.lanes(64);
  await groups.insert(3);
  await group.until(() => at.length === 3);
  const [first, second] = [at[1]! - at[0]!, at[2]! - at[1]!];
  expect(first).toBeGreaterThanOrEqual(990);
  expect(first).toBeLessThan(1_900);
  expect(second).toBeGreaterThanOrEqual(1_990);
  expect(second).toBeLessThan(3_200);
  await expect.poll(retriesLeft).toBe(0);
  expect(await deadLetters()).toEqual([]);
});

test('whatever is thrown ends as a dead letter with its text: no errors, NUL characters, a megabyte', async () => {
  const thrown: Record<number, () => unknown> = {
    1: () => Promise.reject(Object.create(null)),
    2: () => {
      throw 'a string';
    },
    3: () => Promise.reject(undefined),
    4: () => {
      throw new Error('a\u0000b \ud800 →');
    },
    5: () => Promise.reject(new Error('x'.repeat(2 ** 20))),
    6: () => ({
      // biome-ignore lint/suspicious/noThenProperty: a promise that is none
      get then(): never {
        throw new Error('no then');
      },
    }),
    7: () => Promise.reject(Object.assign(new Error(), { message: { no: 'text' } })),
    8: () => Promise.reject(new AggregateError([new Error('one'), new Error('two')])),
  };
  const group = groups.make();
  await group.join({ retries: 0, concurrency: 4 }, ({ id }) => thrown[id]?.()).lanes(64);
  await groups.insert(9);
  await expect.poll(async () => (await deadLetters()).length, { timeout: 10_000 }).toBe(8);
  const errors = Object.fromEntries((await deadLetters()).map((each) => [each.signal_id, each.last_error]));
  expect(errors).toEqual({
    1: 'something was thrown that has no text',
    2: 'a string',
    3: 'undefined',
    4: 'a\\u0000b \ufffd →',
    5: 'x'.repeat(10_000),
    6: 'no then',
    7: expect.stringContaining('Error'),
    8: 'one; two',
  });
  const [letter] = (await deadLetters()).filter(({ signal_id }) => signal_id === 2);
  expect(letter).toMatchObject({ signal: { id: 2, signal_name: 'test', signal_value: 2 }, attempts: 1 });
});

test('a handler that never settles is told to stop, and fails; what it does after that counts no more', async () => {
  const group = groups.make();
  const aborted: number[] = [];
  const late = Promise.withResolvers<void>();
  const member = group.join({ retries: 1, timeoutMs: 200, concurrency: 100 }, async ({ id }, { signal, attempt }) => {
    signal.addEventListener('abort', () => aborted.push(id));
    if (id === 1 && attempt === 1) return late.promise;
    await new Promise(() => {});
  });
  await member.lanes(64);
  await groups.insert(100);
  await group.until(() => group.runs.length === 100);
  await group.until(() => aborted.length === 100);
  late.resolve();
  await expect.poll(async () => (await deadLetters()).length, { timeout: 20_000 }).toBe(100);
  expect(aborted.length).toBe(200);
  expect((await deadLetters())[0]).toMatchObject({
    attempts: 2,
    last_error: 'the handler did not finish within 200 ms',
  });
});

test('a slow retry holds up neither first runs nor other retries', async () => {
  const group = groups.make();
  const slow = Promise.withResolvers<void>();
  const member = group.join({ concurrency: 3 }, async ({ id }, { attempt }) => {
    if (id <= 12 && attempt === 1) throw new Error('once');
    if (id === 1) await slow.promise;
  });
  await member.lanes(64);
  await groups.insert(12);
  await group.until(() => upTo(12).every((id) => group.runs.some((run) => run.id === id && run.attempt === 2)));
  await groups.insert(20);
  await group.until(() => upTo(20, 13).every((id) => group.ids.includes(id)));
  slow.resolve();
  await expect.poll(retriesLeft).toBe(0);
});

test('retries get their turn while first runs use up the concurrency, of keys as well', async () => {
  const group = groups.make({ concurrency: 2, order: 'signal_name' });
  let [running, most] = [0, 0];
  const member = group.join({}, async ({ signal_name }, { attempt }) => {
    if (signal_name === 'poor' && attempt === 1) throw new Error('once');
    most = Math.max(most, ++running);
    await sleep(20);
    running--;
  });
  await member.lanes(64);
  await groups.client.query(
    `INSERT INTO signals (signal_name, signal_value)
     SELECT CASE n WHEN 0 THEN 'poor' ELSE (ARRAY['a', 'b', 'c'])[1 + n % 3] END, n FROM generate_series(0, 600) AS n`,
  );
  await group.until(() => group.runs.some(({ attempt }) => attempt === 2));
  expect(group.runs.length).toBeLessThan(500);
  expect(most).toBe(2);
});

test('a statement about a retry that fails is sent again: the key goes on', async () => {
  const group = groups.make();
  const done: number[] = [];
  const member = group.join({ order: 'signal_name', proofTimeoutMs: 1_000 }, async ({ id }, { attempt }) => {
    if (id === 1 && attempt === 1) throw new Error('once');
    if (id === 1) {
      // What becomes of this run can't be stored.
      const { rows } = await groups.client.query('SELECT pg_backend_pid() AS pid');
      await groups.client.query('BEGIN; LOCK TABLE signal_retries IN ACCESS EXCLUSIVE MODE');
      setTimeout(() => groups.client.query('COMMIT'), 2_500);
      expect(rows).toHaveLength(1);
    }
    done.push(id);
  });
  await member.lanes(64);
  await groups.insert(5);
  await group.until(() => done.length === 5);
  expect(done).toEqual([1, 2, 3, 4, 5]);
  expect(group.log).toContain('Retries could not be read or written');
});

test('what comes while a row of its key fails is kept behind what waited before it', async () => {
  const group = groups.make();
  const order: number[] = [];
  const fail = Promise.withResolvers<void>();
  const member = group.join({ order: 'signal_name', concurrency: 4 }, async ({ id }, { attempt }) => {
    if (id === 1 && attempt === 1) {
      await fail.promise;
      throw new Error('once');
    }
    order.push(id);
  });
  await member.lanes(64);
  await groups.insert(3);
  await group.until(() => member.group.inFlight === 3);
  const writer = new pg.Client(groups.url);
  await writer.connect();
  // The failed row can't be kept before more rows of its key have come.
  await groups.client.query('BEGIN; LOCK TABLE signal_retries IN ACCESS EXCLUSIVE MODE');
  fail.resolve();
  await group.until(() => group.log.includes('Handler failed'));
  await writer.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT 'test', n FROM generate_series(4, 9) AS n`,
  );
  await group.until(() => member.group.inFlight === 9);
  await groups.client.query('COMMIT');
  await group.until(() => order.length === 9);
  await writer.end();
  expect(order).toEqual(upTo(9));
});

test('keys of any kind hold their own rows: 10 kB, unicode, numbers, objects, none', async () => {
  const group = groups.make();
  const order: [string, number][] = [];
  const member = group.join({ order: 'attributes.room', concurrency: 10 }, async ({ id, attributes }, { attempt }) => {
    await sleep(Math.random() * 3);
    if (attempt === 1 && id % 7 === 0) throw new Error('once');
    order.push([JSON.stringify((attributes as { room?: unknown }).room ?? null), id]);
  });
  await member.lanes(64);
  const long = Array.from({ length: 1_250 }, () => Math.random().toString(36).slice(2, 10).padEnd(8, 'x')).join('');
  const rooms = [long, '', 'ünï ✓ 😀', 1, 1.5, true, { a: [1] }, null, 'plain'];
  for (let times = 0; times < 12; times++) {
    for (const room of rooms) {
      await groups.client.query('INSERT INTO signals (signal_name, signal_value, attributes) VALUES ($1, 1, $2)', [
        'x',
        JSON.stringify({ room }),
      ]);
    }
  }
  await group.until(() => order.length === rooms.length * 12);
  for (const room of rooms.filter((each) => each !== null)) {
    const ids = order.filter(([each]) => each === JSON.stringify(room)).map(([, id]) => id);
    expect(ids).toEqual(ids.toSorted((a, b) => a - b));
    expect(ids).toHaveLength(12);
  }
});

test('a row that was deleted before its retry is done with, and its key goes on', async () => {
  const group = groups.make();
  const done: number[] = [];
  const member = group.join({ order: 'signal_name' }, ({ id }) => {
    if (id === 1) throw new Error('always');
    done.push(id);
  });
  await member.lanes(64);
  await groups.insert(3);
  await expect.poll(retriesLeft).toBe(3);
  await groups.client.query('DELETE FROM signals WHERE id = 1');
  await group.until(() => done.length === 2);
  await expect.poll(retriesLeft).toBe(0);
  expect(group.log).toContain('gone, or too large');
});

test('a failed row of 9,000 bytes is run again and buried whole', async () => {
  const group = groups.make();
  const member = group.join({ retries: 1 }, () => {
    throw new Error('always');
  });
  await member.lanes(64);
  const text = 'x'.repeat(9_000);
  await groups.client.query(`INSERT INTO signals (signal_name, signal_value, attributes) VALUES ('big', 1, $1)`, [
    JSON.stringify({ text }),
  ]);
  await expect.poll(async () => (await deadLetters()).length, { timeout: 10_000 }).toBe(1);
  expect((await deadLetters())[0].signal.attributes).toEqual({ text });
});

test('what a member runs again while it leaves is not run by the next one, too', async () => {
  const group = groups.make({ leaseMs: 500 });
  const finish = Promise.withResolvers<void>();
  const first = group.join({}, async (_, { attempt }) => {
    if (attempt === 1) throw new Error('once');
    await finish.promise;
  });
  await first.lanes(64);
  await groups.insert(1);
  await group.until(() => group.runs.length === 2);
  const second = group.join();
  const stopped = first.stop();
  await sleep(1_500); // three leases
  expect(group.runs.length).toBe(2);
  finish.resolve();
  await stopped;
  await second.lanes(64);
  await expect.poll(retriesLeft).toBe(0);
  expect(group.runs.length).toBe(2);
});

test('an error in characters that the database lacks is stored with their codes', async () => {
  const name = `latin1_${Date.now()}`;
  await groups.client.query(`CREATE DATABASE ${name} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'`);
  const url = new URL(groups.url);
  url.pathname = `/${name}`;
  await migrate(url.href);
  const latin1 = new pg.Client(url.href);
  await latin1.connect();
  const group = groups.make({ url: url.href, retries: 0, order: 'attributes.room' });
  const member = group.join({}, ({ id }) => {
    if (id === 1) throw new Error('é ✓ 😀');
  });
  await member.lanes(64);
  await latin1.query(
    `INSERT INTO signals (signal_name, signal_value, attributes)
     SELECT 'é', n, jsonb_build_object('room', U&'\\00e9' || n % 7) FROM generate_series(1, 50) AS n`,
  );
  await group.until(() => group.runs.length === 50);
  const errors = async () => (await latin1.query('SELECT last_error FROM dead_letters')).rows;
  await expect.poll(errors).toEqual([{ last_error: '\\u00e9 \\u2713 \\ud83d\\ude00' }]);
  // In catch-up the server finds the lanes of such keys, too.
  const late = group.join({ name: 'late', from: 'earliest', retries: 0 });
  await Promise.all([late.lanes(64), group.until(() => group.runs.length === 100)]);
  await group.stop();
  await latin1.end();
  await groups.client.query(`DROP DATABASE ${name} WITH (FORCE)`);
});

test('a group of another table keeps the order of its keys, fails and buries as well', async () => {
  await groups.client.query(`
    CREATE SCHEMA audit;
    CREATE TABLE audit.events (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, who int, what json, xid xid8 NOT NULL DEFAULT pg_current_xact_id());
    CREATE INDEX ON audit.events (xid, id);
    CREATE FUNCTION audit.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      PERFORM pg_notify('audit', row_to_json(NEW)::text); RETURN NULL; END $$;
    CREATE TRIGGER tell AFTER INSERT ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.tell()`);
  interface Event extends FeedRow {
    readonly who: number;
    readonly what: unknown;
  }
  const feed: FeedTable<Event> = {
    table: 'audit.events',
    channel: 'audit',
    columns: ['id', 'who', 'what', 'xid'],
    parse: (payload) => JSON.parse(payload),
  };
  const pool = createPool({ connectionString: groups.url, application_name: 'member', max: 4 });
  const done: Event[] = [];
  const member = new Group<Event>(
    pool,
    { name: 'auditors', feed, order: 'who', concurrency: 3, retries: 1, leaseMs: 1_000, checkpointMs: 100 },
    async (event, { attempt }) => {
      if (event.id === 2 || (event.id === 3 && attempt === 1)) throw new Error('no');
      done.push(event);
    },
  );
  const stop = new AbortController();
  const ended = member.start(stop.signal);
  await expect.poll(() => member.laneCount).toBe(64);
  await groups.client.query(
    `INSERT INTO audit.events (who, what) SELECT n % 4, '{"nul": "\\u0000"}' FROM generate_series(1, 40) AS n`,
  );
  await expect.poll(() => done.length, { timeout: 10_000 }).toBe(39);
  stop.abort();
  await ended;
  await pool.end();
  for (let who = 0; who < 4; who++) {
    const ids = done.filter((event) => event.who === who).map(({ id }) => id);
    expect(ids).toEqual(upTo(40).filter((id) => id % 4 === who && id !== 2));
  }
  // The type jsonb has no NUL: the row is kept as text.
  const [letter] = await deadLetters();
  expect(JSON.parse(letter.signal)).toMatchObject({ id: 2, what: { nul: '\u0000' } });
});
