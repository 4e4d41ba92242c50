/** BullMQ on its PostgreSQL backend, which waits with LISTEN; jobs go when they are done, as its documentation advises. */
import { createPostgresBackend, Queue, runMigrations, Worker } from 'bullmq';
import { connect } from '../database.ts';
import { type Contestant, QUEUE } from './contestant.ts';

/** Its documentation's fastest figure is for 8 to 32. */
const CONCURRENCY = 16;

export const create = (): Contestant => ({
  async prepare(url) {
    const client = await connect(url);
    await runMigrations(client);
    await client.end();
  },
  async connectWriter(connectionString) {
    const queue = new Queue(QUEUE, { connection: { connectionString } }, createPostgresBackend);
    await queue.waitUntilReady();
    return {
      add: (values) => queue.addBulk(values.map((value) => ({ name: QUEUE, data: { value } }))),
      async close() {
        await queue.close();
        const client = await connect(connectionString);
        await client.query('TRUNCATE bullmq.event'); // a bulk leaves two a job, which the first worker would have to delete
        await client.end();
      },
    };
  },
  async work(connectionString, handle) {
    const worker = new Worker(
      QUEUE,
      async ({ data }) => handle(data.value),
      {
        connection: { connectionString, max: CONCURRENCY },
        concurrency: CONCURRENCY,
        removeOnComplete: { count: 0 },
      },
      createPostgresBackend,
    );
    await worker.waitUntilReady();
    return () => worker.close();
  },
});
