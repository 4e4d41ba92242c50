/** The metrics of a service, for Prometheus. */
import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client';
import packageJson from '../package.json' with { type: 'json' };
import type { Logger } from './logger.ts';

/** What a pool of connections says of itself; those of `pg` do. */
export interface PoolFigures {
  readonly totalCount: number;
  readonly idleCount: number;
  readonly waitingCount: number;
}

/**
 * A new registry (a test may start several services in one process) with the metrics of the process, its build, its log
 * and its pool in it.
 */
export function createMetrics({ lines }: Pick<Logger, 'lines'>, pool: PoolFigures): Registry {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const labelNames = ['version', 'node'];
  // `first`: the same in every worker process, and not to be summed.
  new Gauge({ name: 'signals_build_info', help: 'Always 1.', labelNames, registers, aggregator: 'first' }).set(
    { version: packageJson.version, node: process.version },
    1,
  );
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
  new Gauge({
    name: 'signals_pool_connections',
    help: 'Connections to the database, open and being opened.',
    labelNames: ['state'],
    registers,
    collect() {
      this.set({ state: 'idle' }, pool.idleCount);
      this.set({ state: 'used' }, pool.totalCount - pool.idleCount);
    },
  });
  new Gauge({
    name: 'signals_pool_waiting',
    help: 'Queries that wait for a connection.',
    registers,
    collect() {
      this.set(pool.waitingCount);
    },
  });
  return registry;
}
