/** What others do to the channel and to the table: forged notifications, ids and transactions that are not theirs. */
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { useListeners } from '../testListener.ts';

const listeners = useListeners();
let proxy: FaultyProxy;
beforeEach(async () => {
  proxy = new FaultyProxy(Number(new URL(listeners.url).port));
  await proxy.start();
});
afterEach(async () => {
  await listeners.stop();
  proxy.close();
});

const listening = () => {
  const url = new URL(listeners.url);
  url.port = String(proxy.port);
  return listeners.listening({ url: url.href });
};

/** Cuts the listener off while `work` is done. */
async function cutOff(work: () => Promise<unknown>): Promise<void> {
  const connectAgain = proxy.block('connect');
  proxy.cut();
  await work();
  connectAgain();
}

test('a stranger who notifies rows that are still to come adds lines, and takes none away', async () => {
  const listener = await listening();
  const { client } = listeners.writer;
  await client.query(`
    CREATE ROLE stranger_${process.pid} LOGIN PASSWORD 'x';
    REVOKE ALL ON signals FROM PUBLIC`);
  const url = new URL(listeners.url);
  [url.username, url.password] = [`stranger_${process.pid}`, 'x'];
  const stranger = new pg.Client({ connectionString: url.href });
  await stranger.connect();
  const [[last], { rows }] = [
    await listeners.writer.insert(1),
    await client.query<{ xmax: string }>('SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS xmax'),
  ];
  const xmax = Number(rows[0]!.xmax);
  const forged = 20 * 40;
  await stranger.query(
    `SELECT pg_notify('new_signals', format(
       '{"id":%s,"timestamp":"2026-01-01T00:00:00+00:00","signal_name":"test","signal_value":1,"attributes":{},"xid":"%s"}', id, xid))
     FROM generate_series($1::bigint, $2) AS id, generate_series($3::bigint, $4) AS xid`,
    [last! + 1, last! + 20, xmax, xmax + 39],
  );
  await listener.received(1 + forged);
  await cutOff(() => listeners.writer.insert(5));
  await listener.received(1 + forged + 5);
  const real = listener.signals.filter(({ timestamp }) => timestamp !== '2026-01-01T00:00:00+00:00');
  expect(real.map(({ id }) => id)).toEqual(await listeners.writer.committed());
  await stranger.end();
  await client.query(`DROP ROLE stranger_${process.pid}`);
});

test('notified transactions that are none cost a line in the log', async () => {
  const listener = await listening();
  const payload = { id: 1, truncated: true };
  for (const xid of ['', '-1', '1e3', '0x10', '99999999999999999999']) {
    await listeners.writer.client.query(`SELECT pg_notify('new_signals', $1)`, [JSON.stringify({ ...payload, xid })]);
  }
  const ids = await listeners.writer.insert(1);
  await listener.received(1);
  expect([listener.ids, listener.counts.invalidPayload, listener.counts.readFailed]).toEqual([ids, 5, undefined]);
});

test('after TRUNCATE … RESTART IDENTITY the ids come again, and so do the rows, large ones with their own content', async () => {
  const listener = await listening();
  const large = (text: string) => JSON.stringify({ text: text.repeat(10_000) });
  await listeners.writer.insert(50);
  await listeners.writer.insert(50, large('a'));
  await listener.received(100);
  await cutOff(async () => {
    await listeners.writer.client.query('TRUNCATE signals RESTART IDENTITY');
    await listeners.writer.insert(60);
    await listeners.writer.insert(60, large('b'));
  });
  await listener.received(220);
  const after = listener.signals.slice(100);
  expect(after.map(({ id }) => id)).toEqual(Array.from({ length: 120 }, (_, at) => at + 1));
  expect(new Set(after.slice(60).map(({ attributes }) => attributes.text))).toEqual(new Set(['b'.repeat(10_000)]));
});
