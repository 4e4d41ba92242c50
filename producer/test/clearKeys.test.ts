/** Deleting old idempotency keys, also on a server that does not answer. */
import { once } from 'node:events';
import { createPool, type PoolOptions } from '@pg-signals/db';
import { afterEach, expect, test, vi } from 'vitest';
import { useTable } from '../../client/test/publish/testTable.ts';
import { clearKeys, keepClearingKeys } from '../src/clearKeys.ts';
import { useProxy } from './testProducer.ts';

const table = useTable();
const proxied = useProxy(table);
let restore = () => {};
afterEach(() => restore());

/** Clears every millisecond through the proxy until `stop` is called. */
function keepClearing(options: Partial<PoolOptions> = {}) {
  const pool = createPool({ connectionString: proxied.url, application_name: 'clearing', ...options });
  const abort = new AbortController();
  const reasons: unknown[] = [];
  const logger = {
    info() {},
    warn: (_message: string, fields?: Record<string, unknown>) => reasons.push(fields?.reason),
    error() {},
  };
  const clearing = keepClearingKeys(pool, { hours: 24, timeoutMs: 60_000, everyMs: 1, logger }, abort.signal);
  /** What a producer does when it stops. */
  async function stop() {
    abort.abort();
    await clearing;
    await pool.end();
  }
  return { pool, reasons, stop };
}

test('keys are cleared when they are old enough, in steps, and not before', async () => {
  await table.client.query(`
    INSERT INTO signal_keys (key, part, fingerprint, signal_id, created_at)
    SELECT 'old' || n, 0, ''::bytea, 0, now() - interval '24 hours 1 second' FROM generate_series(1, 2500) AS n
    UNION ALL
    SELECT 'young', 0, ''::bytea, 0, now() - interval '23 hours 59 minutes'`);
  expect(await clearKeys(table.pool, { hours: 24, timeoutMs: 5_000 })).toBe(2_500);
  const { rows } = await table.client.query(`SELECT FROM signal_keys WHERE key = 'young'`);
  expect(rows).toHaveLength(1);
});

test('a stop does not wait for a step that the server does not answer', async () => {
  const { pool, reasons, stop } = keepClearing();
  await once(pool, 'release');
  restore = proxied.silence();
  await once(pool, 'acquire');
  await stop();
  expect(reasons).toEqual([]);
});

test('a stop waits no longer than connectionTimeoutMillis for a server that does not let it connect', async () => {
  restore = proxied.silence();
  const { pool, stop } = keepClearing({ connectionTimeoutMillis: 500 });
  await vi.waitFor(() => expect(pool.totalCount).toBe(1), 10_000); // it connects
  await stop();
});
