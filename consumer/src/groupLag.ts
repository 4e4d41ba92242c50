/** The lag of a member's lanes, or of a slot, for whoever asks, counted once in two seconds. */
import type { Lag } from 'pg-signals';

const KEPT_MS = 2_000;

/** Undefined where there is none to know: it is no member, or the database does not answer. */
export type ReadLag = () => Promise<Lag | undefined>;

export function groupLag(group: () => { lag(): Promise<Lag | undefined> }): ReadLag {
  let lag: Promise<Lag | undefined> | undefined;
  let countedAt = 0;
  return () => {
    if (lag && performance.now() - countedAt < KEPT_MS) return lag;
    countedAt = performance.now();
    lag = group()
      .lag()
      .catch(() => undefined);
    return lag;
  };
}
