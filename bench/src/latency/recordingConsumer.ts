/** The consumer as a process whose callback reports to the parent when each signal arrived. */
import { readConsumerSettings, startConsumer } from '@pg-signals/consumer';
import { runService } from '@pg-signals/runtime';

export interface Arrival {
  id: number;
  /** CLOCK_MONOTONIC in ns, which all processes of a Linux machine share. */
  at: bigint;
}

await runService(readConsumerSettings, (settings, logger) =>
  startConsumer(settings, logger, ({ id }) => {
    process.send!({ id, at: process.hrtime.bigint() } satisfies Arrival);
  }),
);
