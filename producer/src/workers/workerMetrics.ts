/** Metrics summed over the worker processes, so that each of them answers for all. */
import cluster, { type Worker } from 'node:cluster';
import type { Metrics } from '@pg-signals/runtime';
import { AggregatorRegistry, type Registry } from 'prom-client';

/** From a worker to the primary. */
interface MetricsRequest {
  type: 'signals:metrics?';
  id: number;
}

/** From the primary to the worker. */
interface MetricsResponse {
  type: 'signals:metrics';
  id: number;
  text?: string;
  error?: string;
}

/** In a worker: gives its own metrics to the primary, and gets the sum over all workers from there. */
export function metricsOfAllWorkers(own: Registry): Metrics {
  AggregatorRegistry.setRegistries([own]);
  const aggregator = new AggregatorRegistry(); // from here on it answers the primary
  const waiting = new Map<number, PromiseWithResolvers<string>>();
  process.on('message', ({ type, id, text, error }: MetricsResponse) => {
    if (type !== 'signals:metrics') return;
    if (text === undefined) waiting.get(id)?.reject(new Error(error));
    else waiting.get(id)?.resolve(text);
    waiting.delete(id);
  });
  let lastId = 0;
  return {
    contentType: aggregator.contentType,
    metrics() {
      const response = Promise.withResolvers<string>();
      const request: MetricsRequest = { type: 'signals:metrics?', id: ++lastId };
      waiting.set(request.id, response);
      process.send?.(request);
      return response.promise;
    },
  };
}

/** In the primary: answers the workers until `stop` is called. */
export function gatherWorkerMetrics(): { stop(): void } {
  const aggregator = new AggregatorRegistry();
  const onMessage = async (worker: Worker, { type, id }: MetricsRequest) => {
    if (type !== 'signals:metrics?') return;
    const response: MetricsResponse = { type: 'signals:metrics', id };
    try {
      response.text = await aggregator.clusterMetrics();
    } catch (error) {
      // A worker that dies before it answers: prom-client gives up after five seconds.
      response.error = (error as Error).message;
    }
    if (worker.isConnected()) worker.send(response);
  };
  cluster.on('message', onMessage);
  return { stop: () => void cluster.off('message', onMessage) };
}
