/** The metrics of ingest: what was committed, what failed, and how long both took. */
import type { PublisherObserver } from 'pg-signals';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

export interface IngestMetrics extends Pick<PublisherObserver, 'committed' | 'inserted' | 'failed'> {
  /** A request was answered with an error before its signals reached the publisher. */
  rejected(status: number): void;
  /** A request was answered 503, since all together held too many bytes. */
  notHeld(): void;
}

const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 10];

/** Why a whole request was rejected. What a publisher rejects has its own reasons, and its own statuses. */
const REJECTED: Record<number, string> = {
  400: 'malformed',
  401: 'unauthorized',
  403: 'other-site',
  408: 'slow',
  413: 'too-large',
  415: 'wrong-type',
};

/**
 * @param waiting the publisher's.
 * @param heldBytes of all requests.
 */
export function ingestMetrics(registry: Registry, waiting: () => number, heldBytes: () => number): IngestMetrics {
  const registers = [registry];
  const ingested = new Counter({ name: 'signals_ingested_total', help: 'Rows committed.', registers });
  const repeated = new Counter({
    name: 'signals_ingest_repeated_total',
    help: 'Signals answered with the row of the first time, since their idempotency key was known.',
    registers,
  });
  const failed = new Counter({
    name: 'signals_ingest_failed_total',
    help: 'Signals that were not accepted, and requests rejected before their signals were read, by reason.',
    labelNames: ['reason'],
    registers,
  });
  const batchSize = new Histogram({
    name: 'signals_ingest_batch_size',
    help: 'Signals in one insert.',
    buckets: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000],
    registers,
  });
  const duration = new Histogram({
    name: 'signals_ingest_duration_seconds',
    help: 'Time from the check of a request or a batch of lines to the end of its commit.',
    buckets: SECONDS,
    registers,
  });
  const failedDuration = new Histogram({
    name: 'signals_ingest_failed_duration_seconds',
    help: 'Time from the check of a request or a batch of lines to its failure, by reason.',
    labelNames: ['reason'],
    buckets: SECONDS,
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
  new Gauge({
    name: 'signals_ingest_held_bytes',
    help: 'Bytes of requests in flight.',
    registers,
    collect() {
      this.set(heldBytes());
    },
  });
  return {
    committed(signals, waitedMs) {
      batchSize.observe(signals);
      for (const ms of waitedMs) duration.observe(ms / 1_000);
    },
    inserted(rows, again) {
      ingested.inc(rows);
      repeated.inc(again);
    },
    failed(reason, signals, afterMs) {
      failed.inc({ reason }, signals);
      failedDuration.observe({ reason }, afterMs / 1_000);
    },
    rejected(status) {
      const reason = REJECTED[status];
      if (reason) failed.inc({ reason });
    },
    notHeld: () => failed.inc({ reason: 'held-bytes' }),
  };
}
