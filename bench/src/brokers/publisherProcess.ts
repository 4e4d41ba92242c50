/** A program that publishes: `node publisherProcess.ts <broker> <url>`, then so many seconds each time it is asked. */
import { quantile } from '../statistics.ts';
import { brokerClient } from './client.ts';
import type { BrokerName } from './names.ts';

export interface PublishOrder {
  seconds: number;
  inFlight: number;
}
export interface PublishReport {
  acknowledged: number;
  seconds: number;
  /** From publish to its acknowledgement, in ms. */
  p50: number;
  p99: number;
}

const [broker, url] = process.argv.slice(2) as [BrokerName, string];
const publish = await (await brokerClient(broker)).connectPublisher(url);

process.on('message', async ({ seconds, inFlight }: PublishOrder) => {
  const times: number[] = [];
  const start = performance.now();
  const end = start + seconds * 1_000;
  async function keepPublishing(): Promise<void> {
    for (;;) {
      const begun = performance.now();
      if (begun >= end) return;
      await publish({ signal_name: 'test_signal', signal_value: Math.random() });
      times.push(performance.now() - begun);
    }
  }
  await Promise.all(Array.from({ length: inFlight }, keepPublishing));
  const report: PublishReport = {
    acknowledged: times.length,
    seconds: (performance.now() - start) / 1_000,
    p50: quantile(times, 0.5),
    p99: quantile(times, 0.99),
  };
  process.send!(report);
});
process.send!('ready');
