/** The trigger's guarantees to any program that writes the table. */
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

let database: TestDatabase;
let writer: pg.Client;
let listener: pg.Client;
let received: string[] = [];
/** Ids of a known number of digits, for rows whose length in bytes matters. */
let id = 1_000_000;

beforeAll(async () => {
  database = await createTestDatabase();
  writer = new pg.Client({ connectionString: database.url });
  listener = new pg.Client({ connectionString: database.url });
  await Promise.all([writer.connect(), listener.connect()]);
  listener.on('notification', ({ payload }) => received.push(payload ?? ''));
  await listener.query('LISTEN new_signals; LISTEN done');
});

beforeEach(() => {
  received = [];
});

afterAll(async () => {
  await Promise.all([writer.end(), listener.end()]);
  await database.drop();
});

/** All notifications up to now. They keep their order, so one of our own marks the end. */
async function notified(): Promise<string[]> {
  const arrived = Promise.withResolvers<void>();
  const onDone = ({ channel }: pg.Notification) => {
    if (channel === 'done') arrived.resolve();
  };
  listener.on('notification', onDone);
  await writer.query('NOTIFY done');
  await arrived.promise;
  listener.off('notification', onDone);
  return received.slice(0, -1);
}

async function transactionOf(name: string): Promise<string> {
  const { rows } = await writer.query<{ xid: string }>('SELECT xid::text FROM signals WHERE signal_name = $1', [name]);
  return rows[0]!.xid;
}

const insert = `INSERT INTO signals (signal_name, signal_value)`;

test('a row that claims another transaction is refused, and nothing of its statement is notified', async () => {
  const insertXid = `INSERT INTO signals (signal_name, signal_value, xid)`;
  await expect(
    writer.query(`${insertXid} VALUES ('own', 1, pg_current_xact_id()), ('archived', 1, '3')`),
  ).rejects.toMatchObject({ code: '23514', message: expect.stringContaining('signals.xid'), hint: expect.any(String) });
  await writer.query(`${insertXid} VALUES ('own', 1, pg_current_xact_id())`);
  expect((await notified()).map((payload) => JSON.parse(payload).signal_name)).toEqual(['own']);
});

test('an inserted row is notified as its JSON', async () => {
  await writer.query(`${insert.replace(')', ', "timestamp", attributes)')}
    VALUES ('temperature', 21.5, '2026-04-02T16:23:17.123456+02:00', '{"room": "kitchen"}')`);
  expect((await notified()).map((payload) => JSON.parse(payload))).toEqual([
    {
      id: expect.any(Number),
      timestamp: '2026-04-02T14:23:17.123456+00:00',
      signal_name: 'temperature',
      signal_value: 21.5,
      attributes: { room: 'kitchen' },
      xid: await transactionOf('temperature'),
    },
  ]);
});

test.each([0, 1, 1_000])(
  'an insert of %i rows gives as many notifications, in the order of their ids',
  async (rows) => {
    await writer.query(`${insert} SELECT 'many', n FROM generate_series(1, ${rows}) AS n`);
    const values = (await notified()).map((payload) => JSON.parse(payload));
    expect(values.map((row) => row.signal_value)).toEqual(Array.from({ length: rows }, (_, n) => n + 1));
    expect(values.map((row) => row.id)).toEqual(values.map((row) => row.id).sort((a, b) => a - b));
  },
);

test('COPY notifies each of its rows', async () => {
  const copy = writer.query(copyFrom('COPY signals (signal_name, signal_value) FROM STDIN'));
  await pipeline(Readable.from(['copied\t1\ncopied\t2\n']), copy);
  expect((await notified()).map((payload) => JSON.parse(payload).signal_value)).toEqual([1, 2]);
});

test('a transaction that is rolled back notifies nothing', async () => {
  await writer.query(`BEGIN; ${insert} VALUES ('gone', 1); ROLLBACK`);
  expect(await notified()).toEqual([]);
});

test('a savepoint that is rolled back notifies nothing of its own', async () => {
  await writer.query(`BEGIN; ${insert} VALUES ('kept', 1); SAVEPOINT s; ${insert} VALUES ('gone', 2);
    ROLLBACK TO s; ${insert} VALUES ('kept', 3); COMMIT`);
  expect((await notified()).map((payload) => JSON.parse(payload).signal_value)).toEqual([1, 3]);
});

test('two identical rows in one transaction give two notifications', async () => {
  await writer.query(`BEGIN; ${insert} VALUES ('same', 1); ${insert} VALUES ('same', 1), ('same', 1); COMMIT`);
  expect(await notified()).toHaveLength(3);
});

test.each([
  ['ASCII', 'x'],
  ['two-byte', 'é'],
  ['four-byte', '😀'],
])(
  'a row of %s text is notified whole up to 7,999 bytes of JSON, and as truncated from 8,000',
  async (_name, character) => {
    for (const bytes of [7_999, 8_000, 100_000]) {
      id += 10;
      // The length of the same row without its text says how long the text must be.
      await writer.query(`SELECT setval(pg_get_serial_sequence('signals', 'id'), ${id})`);
      await writer.query('BEGIN');
      const { rows } = await writer.query<{ xid: string }>('SELECT pg_current_xact_id()::text AS xid');
      const { xid } = rows[0]!;
      const around = `{"id":${id + 1},"timestamp":"2026-01-01T00:00:00+00:00","signal_name":"","signal_value":1,"attributes":{},"xid":"${xid}"}`;
      const room = bytes - around.length;
      const width = Buffer.byteLength(character);
      const name = 'a'.repeat(room % width) + character.repeat(room / width);
      await writer.query(`INSERT INTO signals ("timestamp", signal_name, signal_value) VALUES ('2026-01-01Z', $1, 1)`, [
        name,
      ]);
      await writer.query('COMMIT');
      const [payload] = await notified();
      received = [];
      if (bytes < 8_000) {
        expect(Buffer.byteLength(payload!)).toBe(bytes);
        expect(JSON.parse(payload!).signal_name).toBe(name);
      } else {
        expect(payload).toBe(`{"id":${id + 1},"xid":"${xid}","truncated":true}`);
      }
    }
  },
);

test.each(['NaN', 'Infinity', '-Infinity'])('a value of %s is refused by the table', async (value) => {
  await expect(writer.query(`${insert} VALUES ('bad', '${value}')`)).rejects.toMatchObject({ code: '23514' });
});

test.each(['infinity', '-infinity', '0044-03-15 BC', '10000-01-01'])(
  'a timestamp of %s is refused by the table',
  async (timestamp) => {
    await expect(
      writer.query(`INSERT INTO signals ("timestamp", signal_name, signal_value) VALUES ('${timestamp}', 'bad', 1)`),
    ).rejects.toMatchObject({ code: '23514' });
  },
);

test('the settings of the writing session change nothing in the payload', async () => {
  await writer.query(`BEGIN; SET LOCAL timezone = 'Asia/Kolkata'; SET LOCAL extra_float_digits = -10; SET LOCAL search_path = public, pg_temp;
    SET LOCAL datestyle = 'SQL, DMY';
    ${insert.replace(')', ', "timestamp")')} VALUES ('session', 0.1234567890123456, '2026-01-01T00:00:00Z'); COMMIT`);
  expect(JSON.parse((await notified())[0]!)).toMatchObject({
    timestamp: '2026-01-01T00:00:00+00:00',
    signal_value: 0.1234567890123456,
  });
});
