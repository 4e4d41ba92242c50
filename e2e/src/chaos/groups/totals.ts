/** The running totals of the group `totals`, in the database that it reads: its handler, and what they come to. */
import type { Signal } from '@pg-signals/db';
import type { PoolClient } from 'pg';
import type { ChaosServer } from '../server.ts';

/** The second table shows which rows were counted wrongly; it has no key, so that one can come twice. */
export const TOTALS = `
  CREATE TABLE public.totals (writer text PRIMARY KEY, rows bigint NOT NULL, ids numeric NOT NULL);
  CREATE TABLE public.counted (id bigint NOT NULL);
  GRANT SELECT, INSERT, UPDATE ON public.totals, public.counted TO PUBLIC`;

/** Rows and the sum of their ids for each writer. */
export async function addUp(signals: readonly Signal[], tx: Pick<PoolClient, 'query'>): Promise<void> {
  await tx.query(
    `WITH batch AS (SELECT * FROM unnest($1::bigint[], $2::text[]) AS batch (id, writer)),
       counted AS (INSERT INTO public.counted SELECT id FROM batch)
     INSERT INTO public.totals AS total
     SELECT writer, count(*), sum(id) FROM batch GROUP BY writer ORDER BY writer
     ON CONFLICT (writer) DO UPDATE SET rows = total.rows + excluded.rows, ids = total.ids + excluded.ids`,
    [signals.map(({ id }) => id), signals.map(({ signal_name }) => writerOf(signal_name))],
  );
}

const writerOf = (name: string): string => name.split('.')[0]!;

export interface Totals {
  /** How often each row was counted. */
  readonly counts: ReadonlyMap<number, number>;
  /** Writers whose total is not that of their rows. */
  readonly wrong: readonly string[];
}

/** Call it when no member runs any more. */
export async function readTotals(server: ChaosServer): Promise<Totals> {
  const client = await server.connect('check');
  try {
    const counted = await client.query<{ id: string; times: string }>(
      'SELECT id, count(*) AS times FROM public.counted GROUP BY id',
    );
    const wrong = await client.query<{ writer: string }>(`
      SELECT writer
      FROM (
        SELECT split_part(signal_name, '.', 1) AS writer, count(*) AS rows, sum(id) AS ids
        FROM public.signals
        GROUP BY 1
      ) AS committed
      FULL JOIN public.totals AS total USING (writer)
      WHERE (committed.rows, committed.ids) IS DISTINCT FROM (total.rows, total.ids)`);
    return {
      counts: new Map(counted.rows.map(({ id, times }) => [Number(id), Number(times)])),
      wrong: wrong.rows.map(({ writer }) => writer),
    };
  } finally {
    await client.end();
  }
}

/** How many rows are counted by now. */
export async function countCounted(server: ChaosServer): Promise<number> {
  const client = await server.connect('check');
  try {
    const { rows } = await client.query<{ count: string }>('SELECT count(DISTINCT id) FROM public.counted');
    return Number(rows[0]!.count);
  } finally {
    await client.end();
  }
}
