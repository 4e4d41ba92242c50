/** Consumer groups against a real server: sharing, handover, retries, order, batches. */
import { createPool, type Signal } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterEach, beforeEach, expect, onTestFailed, test } from 'vitest';
import { type BatchHandler, Group, type GroupOptions, type Handler } from '../../src/index.ts';
import { Condition } from '../testListener.ts';

let database: TestDatabase;
let client: pg.Client;

beforeEach(async () => {
  database = await createTestDatabase();
  client = new pg.Client(database.url);
  await client.connect();
});

const stops: (() => Promise<void>)[] = [];

afterEach(async () => {
  await Promise.all(stops.splice(0).map((stop) => stop()));
  await client.end();
  await database.drop();
});

interface Run {
  id: number;
  lane: number;
  epoch: number;
  attempt: number;
  member: number;
}

class TestGroup {
  readonly runs: Run[] = [];
  readonly condition = new Condition();
  log = '';
  #count = 0;

  constructor() {
    onTestFailed(() => void process.stdout.write(this.log));
  }

  join(options: Partial<GroupOptions> = {}, handler?: Handler<Signal> | { handleBatch: BatchHandler<Signal> }) {
    const pool = createPool({ connectionString: database.url, application_name: 'member', max: 5 });
    const member = ++this.#count;
    const write = (level: string) => (message: string, fields?: object) => {
      this.log += `${member} ${level} ${message} ${JSON.stringify(fields ?? {})}\n`;
      this.condition.changed();
    };
    const logger = { info: write('info'), warn: write('warn'), error: write('error') };
    const each: Handler<Signal> = (signal, context) => {
      const { lane, epoch, attempt } = context;
      this.runs.push({ id: signal.id, lane, epoch, attempt, member });
      this.condition.changed();
      return typeof handler === 'function' ? handler(signal, context) : undefined;
    };
    const group = new Group(
      pool,
      { name: 'workers', logger, checkpointMs: 100, leaseMs: 1_000, ...options },
      typeof handler === 'object' ? handler : each,
    );
    const stop = new AbortController();
    const done = group.start(stop.signal).finally(() => pool.end());
    const member_ = {
      group,
      pool,
      lanes: (count: number) => this.until(() => group.laneCount === count),
      stop: () => {
        stop.abort();
        return done;
      },
    };
    stops.push(member_.stop);
    return member_;
  }

  until(holds: () => boolean): Promise<void> {
    return expect.poll(holds, { timeout: 15_000, interval: 10 }).toBe(true);
  }

  get ids(): number[] {
    return this.runs.map(({ id }) => id).sort((a, b) => a - b);
  }
}

const insert = (count: number) =>
  client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT 'test', n FROM generate_series(1, $1::int) AS n`,
    [count],
  );
const upTo = (count: number, from = 1) => Array.from({ length: count }, (_, at) => from + at);

test('each signal is handled by one member, and a new member takes its share', async () => {
  const group = new TestGroup();
  const first = group.join();
  await first.lanes(64);
  await insert(100);
  await group.until(() => group.runs.length === 100);
  const second = group.join();
  await Promise.all([first.lanes(32), second.lanes(32)]);
  await insert(100);
  await group.until(() => group.runs.length === 200);
  expect(group.ids).toEqual(upTo(200));
  expect(new Set(group.runs.slice(100).map(({ member }) => member))).toEqual(new Set([1, 2]));
});

test('a clean stop hands over at once and repeats nothing; a group that was away goes on where it stopped', async () => {
  const group = new TestGroup();
  const first = group.join({ leaseMs: 60_000 });
  await first.lanes(64);
  const second = group.join({ leaseMs: 60_000 });
  await second.lanes(32);
  await insert(500);
  await first.stop();
  await second.lanes(64);
  await insert(500);
  await group.until(() => group.runs.length === 1000);
  await second.stop();
  await insert(500);
  const third = group.join();
  await group.until(() => group.runs.length === 1500);
  await third.stop();
  expect(group.ids).toEqual(upTo(1500));
});

test('a new group begins with what comes, or with the first row', async () => {
  await insert(10);
  const late = new TestGroup();
  await late.join({ name: 'late' }).lanes(64);
  const early = new TestGroup();
  early.join({ name: 'early', from: 'earliest' });
  await insert(10);
  await early.until(() => early.runs.length === 20);
  await late.until(() => late.runs.length === 10);
  expect(late.ids).toEqual(upTo(10, 11));
});

test('a signal that fails is run again, others meanwhile, and is a dead letter in the end', async () => {
  const group = new TestGroup();
  await group
    .join({ retries: 1 }, ({ id }) => {
      if (id === 3) throw new Error('no threes');
    })
    .lanes(64);
  await insert(10);
  await group.until(() => group.runs.length === 11);
  await group.until(() => group.log.includes('given up'));
  const { rows } = await client.query(
    'SELECT group_name, signal_id, signal, attempts, first_error, last_error FROM dead_letters',
  );
  expect(rows).toEqual([
    {
      group_name: 'workers',
      signal_id: '3',
      signal: expect.objectContaining({ id: 3 }),
      attempts: 2,
      first_error: 'no threes',
      last_error: 'no threes',
    },
  ]);
  expect((await client.query('SELECT FROM signal_retries')).rowCount).toBe(0);
});

test('signals of a key come one after another, also behind one that fails', async () => {
  const group = new TestGroup();
  let failures = 0;
  const order: number[] = [];
  await group
    .join({ order: 'signal_name', concurrency: 8 }, async ({ id, signal_name }) => {
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
      if (id === 3 && failures++ < 1) throw new Error('once');
      if (signal_name === 'a') order.push(id);
    })
    .lanes(64);
  await client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT (ARRAY['a','b'])[1 + n % 2], n FROM generate_series(0, 19) AS n`,
  );
  await group.until(() => order.length === 10);
  expect(order).toEqual([1, 3, 5, 7, 9, 11, 13, 15, 17, 19]);
});

test('a batch and its checkpoint are one transaction', async () => {
  await client.query('CREATE TABLE total (sum bigint, rows bigint); INSERT INTO total VALUES (0, 0)');
  const group = new TestGroup();
  let failures = 0;
  const member = group.join(
    {},
    {
      async handleBatch(signals, tx) {
        const sum = signals.reduce((total, { signal_value }) => total + signal_value, 0);
        await tx.query('UPDATE total SET sum = sum + $1, rows = rows + $2', [sum, signals.length]);
        if (failures++ === 1) throw new Error('once');
      },
    },
  );
  await member.lanes(64);
  await insert(5_000);
  await insert(5_000);
  const total = async () => (await client.query('SELECT rows FROM total')).rows[0].rows;
  await expect.poll(total, { timeout: 10_000 }).toBe('10000');
  await member.stop();
  expect((await client.query('SELECT sum::int FROM total')).rows).toEqual([{ sum: (2 * (5_000 * 5_001)) / 2 }]);
});
