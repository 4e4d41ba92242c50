/** The metrics of a service, for Prometheus. */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import type { Logger } from './logger.ts';

/** A new registry (a test may start several services in one process) with the metrics of the process and its log in it. */
export function createMetrics({ lines }: Pick<Logger, 'lines'>): Registry {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: 'signals_log_waiting_bytes',
    help: 'Log text that its reader has not taken yet.',
    registers,
    collect() {
      this.set(lines.waiting);
    },
  });
  new Counter({
    name: 'signals_log_lines_dropped_total',
    help: 'Log lines dropped because no one read the log, or because writing them failed.',
    registers,
    collect() {
      this.reset();
      this.inc(lines.dropped);
    },
  });
  return registry;
}
