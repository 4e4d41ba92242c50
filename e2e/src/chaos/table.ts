/** Reads what was committed: only the table knows. */
import { parseSignal, SIGNAL_COLUMNS, type Signal } from '@pg-signals/db';
import type { CommittedRow } from './check.ts';
import { digest } from './digest.ts';
import type { ChaosServer } from './server.ts';

const PAGE = 10_000;

const READ = `
  SELECT row_to_json(signal)::text AS payload
  FROM (SELECT ${SIGNAL_COLUMNS.map((column) => `"${column}"`).join(', ')} FROM public.signals) AS signal
  WHERE id > $1
  ORDER BY id
  LIMIT ${PAGE}`;

/** Every committed row, by id. Call it when the writers have stopped. */
export async function readTable(
  server: ChaosServer,
  committedAt: ReadonlyMap<string, number>,
  isCalm: (at: number) => boolean,
): Promise<CommittedRow[]> {
  const client = await server.connect('check');
  try {
    await client.query(`SET timezone = 'UTC'; SET extra_float_digits = 1`);
    const committed: CommittedRow[] = [];
    for (let lastId = 0; ; ) {
      const { rows } = await client.query<{ payload: string }>(READ, [lastId]);
      for (const { payload } of rows) {
        const signal = parseSignal(payload) as Signal;
        const at = committedAt.get(signal.xid);
        const calm = at !== undefined && isCalm(at);
        const { id, xid, signal_name: key } = signal;
        committed.push({ id, xid, key, digest: digest(signal), committedAt: at, calm });
        lastId = signal.id;
      }
      if (rows.length < PAGE) return committed;
    }
  } finally {
    await client.end();
  }
}
