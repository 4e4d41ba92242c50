/** Consumers that each handle every signal, for comparison: live only. */

import { createPool } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import { Listener } from 'pg-signals';
import { connect } from '../database.ts';
import type { Contestant, Writer } from './contestant.ts';

export const create = (): Contestant => ({
  prepare: migrate,
  connectWriter,
  async work(url, handle) {
    const pool = createPool({ connectionString: url, application_name: 'pg-signals' });
    const stopping = new AbortController();
    const listening = Promise.withResolvers<void>();
    const observer = { listening: (now: boolean) => now && listening.resolve() };
    const listener = new Listener(pool, { observer }, (signal) => handle(signal.signal_value));
    const stopped = listener.start(stopping.signal);
    await Promise.race([listening.promise, stopped]);
    return async () => {
      stopping.abort();
      await stopped;
      await pool.end();
    };
  },
});

/** Writes signals as the producer does: many rows in one INSERT. */
export async function connectWriter(url: string): Promise<Writer> {
  const client = await connect(url);
  const sql = "INSERT INTO signals (signal_name, signal_value) SELECT 'test_signal', unnest($1::float8[])";
  return { add: (values) => client.query({ name: 'add', text: sql, values: [values] }), close: () => client.end() };
}
