/** graphile-worker with the settings of its documentation's fastest figure. */
import { Logger, makeWorkerUtils, run } from 'graphile-worker';
import { type Contestant, QUEUE } from './contestant.ts';

const logger = new Logger(() => () => {});

export const create = (): Contestant => ({
  async prepare(connectionString) {
    const utils = await makeWorkerUtils({ connectionString, logger });
    await utils.migrate();
    await utils.release();
  },
  async connectWriter(connectionString) {
    const utils = await makeWorkerUtils({ connectionString, logger });
    return {
      add: (values) => utils.addJobs(values.map((value) => ({ identifier: QUEUE, payload: { value } }))),
      close: async () => utils.release(),
    };
  },
  async work(connectionString, handle) {
    const runner = await run({
      preset: {
        worker: {
          connectionString,
          concurrentJobs: 24,
          maxPoolSize: 25,
          localQueue: { size: 500 },
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
          logger,
        },
      },
      noHandleSignals: true,
      taskList: { [QUEUE]: (payload) => handle((payload as { value: number }).value) },
    });
    return () => runner.stop();
  },
});
