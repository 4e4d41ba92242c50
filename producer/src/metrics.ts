/** The metrics of group commit. */
import type { PublisherObserver } from 'pg-signals';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

/** @param waiting the publisher's. */
export function ingestMetrics(registry: Registry, waiting: () => number): Pick<PublisherObserver, 'committed'> {
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
    help: 'Time from the check of a request or a batch of lines to the end of its commit.',
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10],
    registers,
  });
  new Gauge({
    name: 'signals_ingest_waiting',
    help: 'Signals whose insert has not begun.',
    registers,
    collect() {
      this.set(waiting());
    },
  });
  return {
    committed(signals, waitedMs) {
      ingested.inc(signals);
      batchSize.observe(signals);
      for (const ms of waitedMs) duration.observe(ms / 1_000);
    },
  };
}
