/** What the server itself needs: a notification between two connections, with nothing of ours in between. */
import { once } from 'node:events';
import { migrate } from '@pg-signals/db/migrate';
import pg from 'pg';

/** As long as the payload of a random signal. */
const PAYLOAD = 'x'.repeat(130);

/** Two raw connections to a database of their own on the server, so that no consumer wakes up for what they send. */
export async function openFloor(serverUrl: string) {
  const url = new URL(serverUrl);
  url.pathname = '/bench_floor';
  const admin = await connect(serverUrl);
  await admin.query('CREATE DATABASE bench_floor');
  await admin.end();
  await migrate(url.href);
  const sender = await connect(url.href);
  const listener = await connect(url.href);
  await listener.query('LISTEN floor; LISTEN new_signals');

  /** ms from the query to the notification. */
  async function sample(sql: string, values: unknown[]): Promise<number> {
    const notified = once(listener, 'notification').then(() => performance.now());
    const start = performance.now();
    await sender.query(sql, values);
    return (await notified) - start;
  }
  return {
    /** A transaction that only notifies: it writes nothing, so nothing is flushed to the disk. */
    notify: () => sample('SELECT pg_notify($1, $2)', ['floor', PAYLOAD]),
    /** A transaction that inserts one row: the trigger notifies, and the commit waits for the flush. */
    insert: () =>
      sample('INSERT INTO signals (signal_name, signal_value) VALUES ($1, $2)', ['test_signal', Math.random()]),
    close: () => Promise.all([sender.end(), listener.end()]),
  };
}

async function connect(connectionString: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString });
  await client.connect();
  return client;
}
