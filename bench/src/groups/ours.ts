/** Members of a consumer group of ours. */
import { createPool } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import { Group } from 'pg-signals';
import { connectWriter } from './broadcast.ts';
import type { Contestant } from './contestant.ts';

export const create = (): Contestant => ({
  prepare: migrate,
  connectWriter,
  async work(url, handle) {
    const pool = createPool({ connectionString: url, application_name: 'pg-signals' });
    const stopping = new AbortController();
    const working = Promise.withResolvers<void>();
    const observer = { lanes: (count: number) => count > 0 && working.resolve() };
    const group = new Group(pool, { name: 'bench', from: 'earliest', observer }, (signal) =>
      handle(signal.signal_value),
    );
    const stopped = group.start(stopping.signal);
    await Promise.race([working.promise, stopped]);
    return async () => {
      stopping.abort();
      await stopped;
      await pool.end();
    };
  },
});
