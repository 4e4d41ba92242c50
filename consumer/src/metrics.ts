/** What a listener does, as Prometheus metrics. */

import type { ListenerObserver } from 'pg-signals';
import { Counter, Gauge, Histogram, type Registry } from 'prom-client';

export function createListenerMetrics(
  registry: Registry,
  proofAgeMs: () => number | undefined,
): Partial<ListenerObserver> {
  const registers = [registry];
  const received = new Counter({
    name: 'signals_received_total',
    help: 'Signals delivered to the callbacks, by the way they came.',
    labelNames: ['source'],
    registers,
  });
  const duplicates = new Counter({
    name: 'signals_duplicates_total',
    help: 'Signals that came a second time, by the other way, and were dropped.',
    registers,
  });
  const invalid = new Counter({
    name: 'signals_invalid_payloads_total',
    help: 'Notifications and rows that could not be read as a signal, and were skipped.',
    registers,
  });
  const skipped = new Counter({
    name: 'signals_skipped_total',
    help: 'Signals that were not delivered: deleted before they were read, or larger than LISTEN_MAX_ROW_BYTES.',
    labelNames: ['reason'],
    registers,
  });
  const callbackFailures = new Counter({
    name: 'signals_callback_failures_total',
    help: 'Callbacks that threw or rejected; each signal counts as delivered all the same.',
    registers,
  });
  const reconnects = new Counter({
    name: 'signals_reconnects_total',
    help: 'Attempts to connect, after the first.',
    registers,
  });
  const delivery = new Histogram({
    name: 'signals_delivery_seconds',
    help: 'From the sending of a marker until all signals before it were delivered (a row does not say when it was committed).',
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30],
    registers,
  });
  const listening = new Gauge({ name: 'signals_listening', help: '1 while notifications arrive.', registers });
  new Gauge({
    name: 'signals_proof_age_seconds',
    help: 'Everything committed longer ago has arrived. -1 before the first proof.',
    registers,
    collect() {
      const age = proofAgeMs();
      this.set(age === undefined ? -1 : age / 1000);
    },
  });

  let connected = false;
  return {
    listening: (now) => listening.set(now ? 1 : 0),
    connecting() {
      if (connected) reconnects.inc();
      connected = true;
    },
    delivered: (source, rows) => received.inc({ source }, rows),
    duplicate: () => duplicates.inc(),
    invalidPayload: () => invalid.inc(),
    rowMissing: () => skipped.inc({ reason: 'deleted' }),
    rowTooLarge: () => skipped.inc({ reason: 'too-large' }),
    callbackFailed: () => callbackFailures.inc(),
    latency: (ms) => delivery.observe(ms / 1000),
  };
}
