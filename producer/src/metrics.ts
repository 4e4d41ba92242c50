/** The figures of group commit. */
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

export interface IngestMetrics {
  /** To be called with every insert: its rows, and for each call that it answers how many ms that took. */
  committed(rows: number, waitedMs: readonly number[]): void;
}

export function ingestMetrics(registry: Registry, waiting: () => number): IngestMetrics {
  const registers = [registry];
  const ingested = new Counter({ name: 'signals_ingested_total', help: 'Signals committed.', registers });
  const batchSize = new Histogram({
    name: 'signals_ingest_batch_size',
    help: 'Signals in one insert.',
    buckets: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000],
    registers,
  });
  const duration = new Histogram({
    name: 'signals_ingest_duration_seconds',
    help: 'From a signal, or several in one request, that was read and checked to the end of its commit.',
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10],
    registers,
  });
  new Gauge({
    name: 'signals_ingest_waiting',
    help: 'Signals that wait for their insert to begin.',
    registers,
    collect() {
      this.set(waiting());
    },
  });
  return {
    committed(rows, waitedMs) {
      ingested.inc(rows);
      batchSize.observe(rows);
      for (const ms of waitedMs) duration.observe(ms / 1_000);
    },
  };
}
