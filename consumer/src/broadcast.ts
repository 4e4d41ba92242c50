/** A replica that gets every signal. */
import { Listener } from 'pg-signals';
import { type Following, type FollowingParts, listenerOptions, requireFresh } from './following.ts';
import { createListenerMetrics } from './metrics.ts';
import { logSignal } from './received.ts';

export function broadcast({ pool, settings, logger, metrics, callbacks }: FollowingParts): Following {
  const listener: Listener = new Listener(
    pool,
    {
      ...listenerOptions(settings, logger),
      observer: createListenerMetrics(metrics, () => listener.proofAgeMs),
    },
    // Where the log has no room, signals wait in the listener's buffer and in the table, which are made for that.
    logSignal(logger),
    ...callbacks,
  );
  return {
    start: (signal) => listener.start(signal),
    requireLevel: () => requireFresh(listener.proofAgeMs, settings),
  };
}
