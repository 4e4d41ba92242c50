/** The loop that people write by hand. What it has deleted and not yet handled is lost with its process. */
import { setTimeout as sleep } from 'node:timers/promises';
import { connect } from '../database.ts';
import type { Contestant, Name } from './contestant.ts';

/** Between two reads when there was nothing. */
const PAUSE_MS = 10;

export const create = (name: Name): Contestant => ({
  async prepare(url) {
    const client = await connect(url);
    await client.query(`CREATE TABLE queue (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      "timestamp" timestamptz NOT NULL DEFAULT now(),
      signal_name text NOT NULL,
      signal_value double precision NOT NULL,
      attributes jsonb NOT NULL DEFAULT '{}'
    )`);
    await client.end();
  },
  async connectWriter(url) {
    const client = await connect(url);
    const text = "INSERT INTO queue (signal_name, signal_value) SELECT 'test_signal', unnest($1::float8[])";
    return { add: (values) => client.query({ name: 'add', text, values: [values] }), close: () => client.end() };
  },
  async work(url, handle) {
    const client = await connect(url);
    const text = `DELETE FROM queue WHERE id IN (
      SELECT id FROM queue ORDER BY id FOR UPDATE SKIP LOCKED LIMIT $1::int
    ) RETURNING *`;
    const limit = name === 'DELETE 100' ? 100 : 1_000;
    let stopping = false;
    async function loop(): Promise<void> {
      while (!stopping) {
        const { rows } = await client.query({ name: 'take', text, values: [limit] });
        for (const row of rows) handle(row.signal_value);
        if (rows.length === 0) await sleep(PAUSE_MS);
      }
      await client.end();
    }
    const stopped = loop();
    return () => {
      stopping = true;
      return stopped;
    };
  },
});
