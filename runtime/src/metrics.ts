/** The figures of a service, in the Prometheus format. */
import { collectDefaultMetrics, Registry } from 'prom-client';

/** A registry of its own (a test may start several services in one process) with the process's own figures in it. */
export function createMetrics(): Registry {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  return registry;
}
