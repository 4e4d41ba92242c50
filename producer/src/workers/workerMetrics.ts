/** Figures summed over the worker processes: whichever of them is asked, all answer. */
import cluster from 'node:cluster';
import type { Metrics } from '@pg-signals/runtime';
import { AggregatorRegistry, type Registry } from 'prom-client';

interface Ask {
  type: 'signals:metrics?';
  id: number;
}
interface Tell {
  type: 'signals:metrics';
  id: number;
  text?: string;
  error?: string;
}

/** In a worker: hands out its own figures, and asks the primary for everybody's. */
export function metricsOfAllWorkers(own: Registry): Metrics {
  AggregatorRegistry.setRegistries([own]);
  const aggregator = new AggregatorRegistry(); // from now on it answers the primary
  const asked = new Map<number, PromiseWithResolvers<string>>();
  process.on('message', ({ type, id, text, error }: Tell) => {
    if (type !== 'signals:metrics') return;
    if (text === undefined) asked.get(id)?.reject(new Error(error));
    else asked.get(id)?.resolve(text);
    asked.delete(id);
  });
  let last = 0;
  return {
    contentType: aggregator.contentType,
    metrics() {
      const answer = Promise.withResolvers<string>();
      const ask: Ask = { type: 'signals:metrics?', id: ++last };
      asked.set(ask.id, answer);
      process.send?.(ask);
      return answer.promise;
    },
  };
}

/** In the primary: answers the workers until `stop` is called. */
export function gatherWorkerMetrics(): { stop(): void } {
  const aggregator = new AggregatorRegistry();
  const onMessage = async (worker: import('node:cluster').Worker, { type, id }: Ask) => {
    if (type !== 'signals:metrics?') return;
    const tell: Tell = { type: 'signals:metrics', id };
    try {
      tell.text = await aggregator.clusterMetrics();
    } catch (error) {
      // A worker that dies while it is asked never answers, and prom-client gives up after five seconds.
      tell.error = (error as Error).message;
    }
    if (worker.isConnected()) worker.send(tell);
  };
  cluster.on('message', onMessage);
  return { stop: () => void cluster.off('message', onMessage) };
}
