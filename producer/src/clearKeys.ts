/** Clears idempotency keys that are old enough, in small steps. */
import { setTimeout as sleep } from 'node:timers/promises';
import { withConnection } from '@pg-signals/db';
import type { Logger } from '@pg-signals/runtime';
import type { Pool } from 'pg';

/** Keys in one step: a few ms of work, so that nobody waits behind it. */
const STEP = 1_000;
const PAUSE_MS = 50;
const EVERY_MS = 60_000;

// Several producers may clear at once: each skips what another has locked.
const DELETE_OLD = `
  DELETE FROM signal_keys
  WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM signal_keys
    WHERE created_at < now() - make_interval(secs => $1 * 3600)
    ORDER BY created_at
    LIMIT ${STEP}
    FOR UPDATE SKIP LOCKED
  ))`;

export interface ClearKeysOptions {
  /** Older keys are cleared. */
  hours: number;
  /** How long each step may take. */
  timeoutMs: number;
}

/** Deletes the keys older than `hours`; resolves with how many those were. */
export async function clearKeys(
  pool: Pool,
  { hours, timeoutMs }: ClearKeysOptions,
  signal?: AbortSignal,
): Promise<number> {
  for (let cleared = 0; ; await sleep(PAUSE_MS, undefined, { signal })) {
    const { rowCount } = await withConnection(pool, timeoutMs, (client) => client.query(DELETE_OLD, [hours]));
    cleared += rowCount ?? 0;
    if ((rowCount ?? 0) < STEP) return cleared;
  }
}

/** Clears every minute, until `signal` aborts. A step that fails is left to the next minute. */
export async function keepClearingKeys(
  pool: Pool,
  { logger, ...options }: ClearKeysOptions & { logger: Logger },
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await sleep(EVERY_MS, undefined, { signal, ref: false });
      await clearKeys(pool, options, signal);
    } catch (error) {
      if (signal.aborted) return;
      logger.warn('Old idempotency keys could not be cleared, trying again in a minute', {
        reason: (error as Error).message,
      });
    }
  }
}
