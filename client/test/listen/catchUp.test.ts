/** What a consumer missed comes from the table: all of it, once, and in order. */

import { createPool, createQuery, type Query } from '@pg-signals/db';
import { expect, test } from 'vitest';
import { BEGINNING, type ReadingPlace, readPage } from '../../src/listen/committedRows.ts';
import { signalsTable } from '../../src/listen/feedTable.ts';
import { type Snapshot, takeDurableSnapshot } from '../../src/listen/snapshot.ts';
import { useListeners } from '../testListener.ts';

const listeners = useListeners();
const { listening, another } = listeners;

test('what is committed while the connection is down is delivered once it is up again', async () => {
  const listener = await listening();
  const before = await listeners.writer.insert(3);
  await listener.received(3);
  for (let round = 2; round <= 6; round++) {
    await listeners.writer.killBackends();
    await listeners.writer.insert(100);
    await listener.listening(round);
  }
  await listener.received(503);
  expect(listener.ids.slice(0, 3)).toEqual(before);
  expect(listener.ids.toSorted((a, b) => a - b)).toEqual(
    (await listeners.writer.committed()).toSorted((a, b) => a - b),
  );
});

test('a row over the limit costs a line with its id, and no more than itself', async () => {
  const listener = await listening({ maxRowBytes: 100_000 });
  const insert = async (kilobytes: number) =>
    (await listeners.writer.insert(1, JSON.stringify({ text: 'x'.repeat(kilobytes * 1_000) })))[0]!;
  const live = [await insert(60), await insert(200), await insert(60)];
  await listener.received(2);
  await listeners.writer.killBackends();
  const missed = [await insert(60), await insert(60), await insert(200), await insert(60)];
  await listener.received(5);
  expect(listener.ids).toEqual([...live, ...missed].filter((id) => id !== live[1] && id !== missed[2]));
  for (const id of [live[1], missed[2]]) {
    expect(listener.log).toContain(`WARN A row is too large, skipping it table=public.signals id=${id} bytes=200`);
  }
  expect(listener.counts.rowTooLarge).toBeGreaterThanOrEqual(2);
});

test('a transaction with a low id that commits after later ones is delivered, whenever it commits', async () => {
  const listener = await listening();
  const [early, during, late, never] = await Promise.all([another(), another(), another(), another()]);
  const low = [];
  for (const each of [early, during, late, never]) {
    await each.client.query('BEGIN');
    low.push(...(await each.insert(2)));
  }
  await listeners.writer.insert(2);
  await early.client.query('COMMIT');
  await listener.received(4);
  await listeners.writer.killBackends();
  await during.client.query('COMMIT');
  await listeners.writer.insert(2);
  await listener.listening(2);
  await listener.received(8);
  await listeners.writer.insert(1);
  await late.client.query('COMMIT');
  await listener.received(11);
  // A transaction left open delayed nobody. Rolled back, it leaves nothing.
  await listeners.writer.killBackends();
  await never.client.query('ROLLBACK');
  await listener.listening(3);
  await listeners.writer.insert(1);
  await listener.received(12);
  const committed = await listeners.writer.committed();
  expect(listener.ids.toSorted((a, b) => a - b)).toEqual(committed.toSorted((a, b) => a - b));
  expect(committed).toEqual(expect.arrayContaining(low.slice(0, 6)));
});

test('rows of subtransactions are delivered with their transaction, those rolled back never', async () => {
  const listener = await listening();
  const other = await another();
  await other.client.query('BEGIN; SAVEPOINT a');
  const kept = await other.insert(1);
  await other.client.query('SAVEPOINT b');
  await other.insert(1);
  await other.client.query('ROLLBACK TO b; SAVEPOINT c');
  kept.push(...(await other.insert(1)));
  await listeners.writer.killBackends();
  await listener.listening(2);
  await other.client.query('COMMIT');
  await listener.received(2);
  await listeners.writer.killBackends();
  await listener.listening(3);
  const [last] = await listeners.writer.insert(1);
  await listener.received(3);
  expect(listener.ids).toEqual([...kept, last]);
});

test('100,000 rows missed at once come once each and in order', async () => {
  const listener = await listening();
  await listeners.writer.killBackends();
  await listeners.writer.client.query('BEGIN');
  const first = await listeners.writer.insert(1);
  await listeners.writer.client.query(
    `INSERT INTO signals (signal_name, signal_value) SELECT 'missed', n FROM generate_series(1, 99999) AS n`,
  );
  await listeners.writer.killBackends();
  await listeners.writer.client.query('COMMIT');
  await listener.received(100_000);
  expect(listener.ids[0]).toBe(first[0]);
  expect(listener.ids.every((id, at) => id === first[0]! + at)).toBe(true);
});

test('rows over 8,000 bytes are read from the table, in their place among the rest', async () => {
  const listener = await listening();
  const large = JSON.stringify({ text: 'x'.repeat(20_000) });
  await listeners.writer.client.query('BEGIN');
  const ids = [
    ...(await listeners.writer.insert(1)),
    ...(await listeners.writer.insert(40, large)),
    ...(await listeners.writer.insert(1)),
  ];
  await listeners.writer.client.query('COMMIT');
  await listener.received(42);
  expect(listener.ids).toEqual(ids);
  expect(listener.signals[20]!.attributes).toEqual(JSON.parse(large));
  await listeners.writer.killBackends();
  const missed = [...(await listeners.writer.insert(20, large)), ...(await listeners.writer.insert(1))];
  await listener.received(63);
  expect(listener.ids.slice(42)).toEqual(missed);
  expect(listener.signals[45]!.attributes).toEqual(JSON.parse(large));
});

test('a large row that is deleted before it can be read is reported and skipped', async () => {
  const hold = Promise.withResolvers<void>();
  const listener = await listening({ callback: () => hold.promise });
  await listeners.writer.insert(1);
  await listener.received(1);
  const [gone] = await listeners.writer.insert(1, JSON.stringify({ text: 'x'.repeat(20_000) }));
  await listeners.writer.client.query('DELETE FROM signals WHERE id = $1', [gone]);
  const [last] = await listeners.writer.insert(1);
  hold.resolve();
  await listener.received(2);
  expect(listener.ids[1]).toBe(last);
  expect(listener.counts.rowMissing).toBe(1);
  expect(listener.log).toContain(
    `WARN A row was deleted before it could be read, skipping it table=public.signals id=${gone}`,
  );
});

test('a large row that can not be read for a while is delivered in its place, and what came after it too', async () => {
  const hold = Promise.withResolvers<void>();
  const listener = await listening({ proofTimeoutMs: 100, callback: () => hold.promise });
  const ids = await listeners.writer.insert(1);
  await listener.received(1);
  ids.push(...(await listeners.writer.insert(1, JSON.stringify({ text: 'x'.repeat(20_000) }))));
  ids.push(...(await listeners.writer.insert(2)));
  await listeners.writer.client.query('BEGIN; LOCK TABLE signals');
  hold.resolve();
  await listener.happened('readFailed', 2);
  expect(listener.ids).toEqual(ids.slice(0, 1));
  await listeners.writer.client.query('COMMIT');
  ids.push(...(await listeners.writer.insert(1)));
  await listener.received(5);
  expect(listener.ids).toEqual(ids);
  expect(listener.log).toMatch(
    /WARN Reading the table failed, reading again table=public\.signals reason=no answer within 600 ms/,
  );
});

test.each(['fresh', 'no'])(
  'a page costs the same from wherever it is read, with %s statistics of the table',
  async (statistics) => {
    const pool = createPool({ connectionString: listeners.url, application_name: 'pages', max: 2 });
    const query = createQuery(pool, 5_000);
    const { client } = listeners.writer;
    await client.query('ALTER TABLE signals DISABLE TRIGGER ALL; ALTER TABLE signals SET (autovacuum_enabled = off)');
    const before = await takeDurableSnapshot(query);
    for (let batch = 0; batch < 10; batch++) await listeners.writer.insert(5_000);
    // A long transaction that runs while the cursor moves, and one after it.
    const long = await another();
    await long.client.query('BEGIN');
    await long.insert(50_000);
    const from = await takeDurableSnapshot(query);
    await listeners.writer.insert(50_000);
    await long.client.query('COMMIT');
    if (statistics === 'fresh') await client.query('ANALYZE signals');
    const to = await takeDurableSnapshot(query);
    const blocks: number[] = [];
    const explained: Query = async (text, values) => {
      const plan = await query<[string]>(text.replace(';', '; EXPLAIN (ANALYZE, BUFFERS)'), values);
      const [execution = ''] = plan.join('\n').split('Planning:');
      blocks.push(Math.max(...[...execution.matchAll(/shared hit=(\d+)/g)].map(([, hit]) => Number(hit))));
      return query(text, values);
    };
    const reader = { query: explained, table: signalsTable, server: to.server, timeoutMs: 5_000 };
    for (const since of [before, from]) {
      let place: ReadingPlace | undefined = BEGINNING;
      for (let pages = 0; place && pages < 3; pages++) {
        place = (await readPage(reader, { from: since, to, place })).next;
      }
    }
    // 2,500 rows of some 100 bytes are on 40 blocks; all of them are on 2,500, and a walk along their index is 600.
    expect([blocks.length, Math.max(...blocks) < 120]).toEqual([6, true]);
    await pool.end();
  },
);

test('between two snapshots lie exactly the rows that the later sees and the earlier does not', async () => {
  const pool = createPool({ connectionString: listeners.url, application_name: 'snapshots', max: 2 });
  const query = createQuery(pool, 5_000);
  const read = async (from: Snapshot, to: Snapshot) => {
    const ids: number[] = [];
    for (let place: ReadingPlace | undefined = BEGINNING; place; ) {
      const page = await readPage(
        { query, table: signalsTable, server: to.server, timeoutMs: 5_000 },
        { from, to, place },
      );
      ids.push(...page.payloads.map((payload) => JSON.parse(payload).id));
      place = page.next;
    }
    return ids;
  };
  const open = await another();
  await open.client.query('BEGIN');
  const straggler = await open.insert(1);
  await listeners.writer.insert(1);
  const a = await takeDurableSnapshot(query);
  const between = await listeners.writer.insert(2_500);
  await open.client.query('COMMIT');
  const b = await takeDurableSnapshot(query);
  await listeners.writer.insert(1);
  expect(await read(a, b)).toEqual([...straggler, ...between]);
  expect(await read(a, a)).toEqual([]);
  await pool.end();
});

test.each(['America/New_York', 'Europe/Berlin', 'Asia/Kolkata'])(
  'settings of the database change nothing in what is read: timezone %s',
  async (timezone) => {
    const { rows } = await listeners.writer.client.query('SELECT current_database() AS name');
    for (const setting of [
      `timezone = '${timezone}'`,
      'extra_float_digits = 0',
      `default_transaction_read_only = on`,
    ]) {
      await listeners.writer.client.query(`ALTER DATABASE ${rows[0].name} SET ${setting}`);
    }
    const listener = await listening();
    const live = await listening();
    await listeners.writer.killBackends();
    const large = JSON.stringify({ text: 'x'.repeat(9_000) });
    for (const year of ['0001', '1850', '2026', '9999']) {
      await listeners.writer.client.query(
        `INSERT INTO signals ("timestamp", signal_name, signal_value, attributes)
         SELECT $1::timestamptz, 'moment', 0.1::float8 + 0.2, attributes FROM unnest(ARRAY['{}', $2]::jsonb[]) AS attributes`,
        [`${year}-01-01T00:00:00Z`, large],
      );
    }
    await Promise.all([listener.received(8), live.received(8)]);
    for (const { signals, counts } of [listener, live]) {
      expect(signals.map(({ timestamp }) => timestamp)).toEqual(
        ['0001', '0001', '1850', '1850', '2026', '2026', '9999', '9999'].map((year) => `${year}-01-01T00:00:00+00:00`),
      );
      expect(new Set(signals.map(({ signal_value }) => signal_value))).toEqual(new Set([0.1 + 0.2]));
      expect(counts.invalidPayload).toBeUndefined();
    }
  },
);

test('a row that can not be parsed is skipped alone, large or small', async () => {
  const listener = await listening();
  await listeners.writer.client.query('ALTER TABLE signals ALTER COLUMN id SET GENERATED BY DEFAULT');
  const insert = (id: string, text: string) =>
    listeners.writer.client.query(
      `INSERT INTO signals (id, signal_name, signal_value, attributes)
       OVERRIDING SYSTEM VALUE VALUES ($1, 'far', 1, jsonb_build_object('text', $2::text))`,
      [id, text],
    );
  const tooLarge = '9007199254740993';
  const ids = await listeners.writer.insert(1);
  await insert(tooLarge, 'small');
  await insert('9007199254740995', 'x'.repeat(9_000));
  ids.push(...(await listeners.writer.insert(1)));
  await listener.received(2);
  expect([listener.ids, listener.counts.invalidPayload]).toEqual([ids, 2]);
});
