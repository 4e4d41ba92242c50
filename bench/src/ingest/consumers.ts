/** Two consumers on a database, as users run them, and the check that both received every committed row. */
import type { Database } from '../database.ts';
import { retry } from '../process.ts';
import { startService } from '../services.ts';

/**
 * Rows may still be committed after the load has ended. All are in when their number stays the same for so long, and no
 * session works: an insert may wait that long for the disk.
 */
const SETTLED_MS = 100;

export async function attachConsumers({ url, empty, isIdle, countSignals }: Database) {
  await using stack = new AsyncDisposableStack();
  const start = async () => stack.use(await startService('consumer/src/main.ts', url));
  const [first, second] = [await start(), await start()];
  const received = () => Promise.all([receivedBy(first.url), receivedBy(second.url)]);
  let before = [0, 0];
  const started = stack.move();
  return {
    pids: { 'consumer 1': first.pid, 'consumer 2': second.pid },
    /** Empties the table; call it when both are level. The next `untilLevel` counts from here. */
    async begin(): Promise<void> {
      before = await received(); // before the table is empty: a row that comes meanwhile counts on both sides
      await empty();
    },
    /**
     * Resolves when both consumers have received exactly the rows committed since `begin`: with their number, and how
     * long that took from the call, in s.
     *
     * @throws {Error} with the counts when they have not after two minutes.
     */
    async untilLevel(): Promise<{ rows: number; seconds: number }> {
      const called = performance.now();
      let [last, levelAt] = ['', 0];
      return await retry(async () => {
        const [rows, ...counts] = [await countSignals(), ...(await received()).map((count, i) => count - before[i]!)];
        const now = `${rows} rows were committed, the consumers received ${counts.join(' and ')}`;
        if (now !== last || !(await isIdle())) [last, levelAt] = [now, performance.now()];
        const level = counts.every((count) => count === rows);
        if (!level || performance.now() - levelAt < SETTLED_MS) throw new Error(now);
        return { rows, seconds: (levelAt - called) / 1_000 };
      }, AbortSignal.timeout(120_000));
    },
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

async function receivedBy(url: string): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const counts = metrics.matchAll(/^signals_received_total\{[^}]*\} (\d+)$/gm);
  return [...counts].reduce((total, [, count]) => total + Number(count), 0);
}
