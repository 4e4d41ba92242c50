/** Members of a group of ours. */
import { createPool } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import * as client from 'pg-signals';
import { connectWriter } from './broadcast.ts';
import type { Contestant } from './contestant.ts';

type NewGroup = new (
  pool: ReturnType<typeof createPool>,
  options: { name: string; from: 'earliest' | 'latest' },
  handler: (signal: client.Signal) => void,
) => { start(signal: AbortSignal): Promise<void> };

export const create = (): Contestant => ({
  prepare: migrate,
  connectWriter,
  async work(url, handle) {
    const { Group } = client as unknown as { Group: NewGroup };
    const pool = createPool({ connectionString: url, application_name: 'pg-signals' });
    const stopping = new AbortController();
    const group = new Group(pool, { name: 'bench', from: 'earliest' }, (signal) => handle(signal.signal_value));
    const stopped = group.start(stopping.signal);
    return async () => {
      stopping.abort();
      await stopped;
      await pool.end();
    };
  },
});
