/** A replica that gets every signal, from where the one before it stood. */
import { Slot } from 'pg-signals';
import { type Following, type FollowingParts, listenerOptions, requireFresh } from './following.ts';
import { groupLag } from './groupLag.ts';
import { createLagMetrics } from './groupMetrics.ts';
import { createListenerMetrics } from './metrics.ts';
import { logSignal } from './received.ts';

export function slotHolder({ pool, settings, logger, metrics, callbacks }: FollowingParts): Following {
  const slot: Slot = new Slot(
    pool,
    {
      ...listenerOptions(settings, logger),
      ttlMs: settings.CONSUMER_SLOT_TTL,
      leaseMs: settings.CONSUMER_GROUP_LEASE_MS,
      checkpointMs: settings.CONSUMER_GROUP_CHECKPOINT_MS,
      // A line that is only in memory must not count as delivered.
      flush: () => logger.lines.written(),
      observer: createListenerMetrics(metrics, () => slot.proofAgeMs),
    },
    logSignal(logger),
    ...callbacks,
  );
  createLagMetrics(
    metrics,
    () => slot.name,
    () => slot,
    groupLag(() => slot),
  );
  return {
    start: (signal) => slot.start(signal),
    requireLevel: () => requireFresh(slot.proofAgeMs, settings),
  };
}
