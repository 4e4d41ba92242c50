/** pg-boss with its LISTEN/NOTIFY, batches, and fetching without a pause as long as batches are full. */
import { PgBoss } from 'pg-boss';
import { type Contestant, QUEUE } from './contestant.ts';

/** 100 handled a third fewer a second; 5,000, or two workers in a member, no more. */
const BATCH = 1_000;

export const create = (): Contestant => ({
  async prepare(url) {
    const boss = await start(url);
    await boss.createQueue(QUEUE, { notify: true });
    await boss.stop();
  },
  async connectWriter(url) {
    const boss = await start(url);
    return {
      add: (values) =>
        boss.insert(
          QUEUE,
          values.map((value) => ({ data: { value } })),
        ),
      close: () => boss.stop(),
    };
  },
  async work(url, handle) {
    const boss = await start(url);
    await boss.work<{ value: number }>(QUEUE, { batchSize: BATCH, burstWhenBatchFull: true }, async (jobs) => {
      for (const { data } of jobs) handle(data.value);
    });
    return () => boss.stop();
  },
});

async function start(connectionString: string): Promise<PgBoss> {
  const boss = new PgBoss({ connectionString, useListenNotify: true });
  await boss.start();
  return boss;
}
