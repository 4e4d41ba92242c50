/** The metrics of a service, for Prometheus. */
import { collectDefaultMetrics, Registry } from 'prom-client';

/** A new registry (a test may start several services in one process) with the metrics of the process in it. */
export function createMetrics(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
