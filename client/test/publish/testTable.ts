/** The table `signals` in a database of the test file's own. */
import { createPool } from '@pg-signals/db';
import { createTestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterAll, beforeAll, vi } from 'vitest';

/** Filled in before the first test of a file, and taken down after its last. */
export interface TestTable {
  databaseUrl: string;
  /** For the test's own statements and locks. */
  client: pg.Client;
  /** For the code under test, and for statements while `client` holds a lock. */
  pool: pg.Pool;
  /** The names of the signals, in the order of their ids. */
  names(): Promise<string[]>;
  /** How many transactions wrote the signals. */
  transactions(): Promise<number>;
  /** Resolves when there are this many signals or more. */
  holds(count: number): Promise<void>;
  /** Locks the table against inserts, until `unlock`. */
  lock(): Promise<unknown>;
  unlock(): Promise<unknown>;
  /** Resolves when exactly this many inserts wait for a lock. */
  insertsWait(count: number): Promise<void>;
}

export function useTable(): TestTable {
  let drop: () => Promise<void>;
  let listener: pg.Client;
  const connect = async () => {
    const client = new pg.Client({ connectionString: table.databaseUrl });
    client.on('error', () => {});
    await client.connect();
    return client;
  };
  const table = {
    async names() {
      const { rows } = await table.client.query('SELECT signal_name FROM signals ORDER BY id');
      return rows.map(({ signal_name }) => signal_name as string);
    },
    async transactions() {
      return Number((await table.client.query('SELECT count(DISTINCT xid) FROM signals')).rows[0].count);
    },
    async holds(count) {
      for (;;) {
        const next = new Promise((resolve) => listener.once('notification', resolve));
        if ((await table.names()).length >= count) return;
        await next;
      }
    },
    lock: () => table.client.query('BEGIN; LOCK TABLE signals IN EXCLUSIVE MODE'),
    unlock: () => table.client.query('COMMIT'),
    // No event says that a session waits for a lock. Asked on the pool: within the transaction of `client`,
    // pg_stat_activity stays as it was first seen.
    insertsWait: (count) =>
      vi.waitFor(async () => {
        const { rowCount } = await table.pool.query(
          `SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
        );
        if (rowCount !== count) throw new Error(`expected ${count} inserts to wait for a lock, got ${rowCount}`);
      }, 20_000),
  } as TestTable;
  beforeAll(async () => {
    const database = await createTestDatabase();
    drop = database.drop;
    table.databaseUrl = database.url;
    table.client = await connect();
    listener = await connect();
    await listener.query('LISTEN new_signals');
    table.pool = createPool({ connectionString: database.url, application_name: 'test' });
  });
  afterAll(async () => {
    await table.pool.end();
    await Promise.all([table.client.end(), listener.end()]);
    await drop();
  });
  return table;
}
