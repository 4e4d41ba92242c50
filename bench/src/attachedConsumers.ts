/** Two consumers on a database, as users run them, and the check that both received what was committed. */
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { type ServiceChild, startServiceChild } from './serviceChild.ts';

const LEVEL_DEADLINE_MS = 120_000;

export interface AttachedConsumers {
  readonly pids: readonly number[];
  /** Empties the table; call it when both are level. The next `untilLevel` counts from here. */
  begin(): Promise<void>;
  /**
   * Resolves with the rows committed since `begin` when both consumers have received exactly as many.
   *
   * @throws {Error} with the counts when they have not after two minutes.
   */
  untilLevel(): Promise<number>;
  stop(): Promise<void>;
}

export async function attachConsumers(databaseUrl: string, client: pg.Client): Promise<AttachedConsumers> {
  const consumers: ServiceChild[] = [];
  for (let i = 0; i < 2; i++) consumers.push(await startServiceChild('consumer/src/main.ts', databaseUrl));
  let before: number[] = [];
  const received = () => Promise.all(consumers.map(({ url }) => receivedBy(url)));

  return {
    pids: consumers.map(({ process }) => process.pid!),
    async begin() {
      // Ids go on, as they would in a table that is never emptied: consumers tell signals apart by them.
      await client.query('TRUNCATE signals');
      // So that nobody's run pays for the checkpoint of another's.
      await client.query('CHECKPOINT');
      before = await received();
    },
    async untilLevel() {
      const deadline = Date.now() + LEVEL_DEADLINE_MS;
      let last = -1;
      for (;;) {
        const since = (await received()).map((count, i) => count - before[i]!);
        const rows = await countSignals(client);
        // Twice the same: an insert that was under way when the load ended is in.
        if (rows === last && since.every((count) => count === rows)) return rows;
        last = rows;
        if (Date.now() > deadline) throw new Error(`${rows} rows were committed, received were ${since.join(' and ')}`);
        await sleep(25);
      }
    },
    async stop() {
      await Promise.all(consumers.map((consumer) => consumer.stop()));
    },
  };
}

export async function countSignals(client: pg.Client): Promise<number> {
  const { rows } = await client.query<{ count: string }>('SELECT count(*) FROM signals');
  return Number(rows[0]!.count);
}

async function receivedBy(url: string): Promise<number> {
  const response = await fetch(`${url}/metrics`, { signal: AbortSignal.timeout(60_000) });
  const counts = (await response.text()).matchAll(/^signals_received_total\{[^}]*\} (\d+)$/gm);
  return [...counts].reduce((sum, [, count]) => sum + Number(count), 0);
}
