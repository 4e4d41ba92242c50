/** Reads what was committed: the table itself is the only truth about a run. */
import { parseSignal, type Signal } from '@pg-signals/db';
import type { CommittedRow } from './check.ts';
import { digest } from './digest.ts';
import type { ChaosServer } from './server.ts';

const PAGE = 10_000;

const READ = `
  SELECT xid::text, row_to_json(signal)::text AS payload
  FROM signals
  CROSS JOIN LATERAL (SELECT id, "timestamp", signal_name, signal_value, attributes) AS signal
  WHERE signals.id > $1
  ORDER BY signals.id
  LIMIT ${PAGE}`;

/** Every committed row, by id. To be called when nobody writes any more. */
export async function readTable(
  server: ChaosServer,
  committedAt: ReadonlyMap<string, number>,
  isCalm: (at: number) => boolean,
): Promise<CommittedRow[]> {
  const client = await server.connect('check');
  try {
    await client.query(`SET timezone = 'UTC'`);
    const committed: CommittedRow[] = [];
    for (let lastId = 0; ; ) {
      const { rows } = await client.query<{ xid: string; payload: string }>(READ, [lastId]);
      for (const { xid, payload } of rows) {
        const signal = parseSignal(payload) as Signal;
        const at = committedAt.get(xid);
        const calm = at !== undefined && isCalm(at);
        committed.push({ id: signal.id, xid, digest: digest(signal), committedAt: at, calm });
        lastId = signal.id;
      }
      if (rows.length < PAGE) return committed;
    }
  } finally {
    await client.end();
  }
}
