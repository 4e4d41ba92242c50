/** Deletes old idempotency keys, in small steps. */
import { setTimeout as sleep } from 'node:timers/promises';
import { withConnection } from '@pg-signals/db';
import type { Pool } from 'pg';
import type { Logger } from 'pg-signals';

/** Keys in one step: a few ms of work, so that no insert waits long behind it. */
const STEP = 1_000;
const PAUSE_MS = 50;

// Several producers may clear at once: each skips the keys that another one has locked.
const DELETE_OLD = `
  DELETE FROM public.signal_keys
  WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM public.signal_keys
    WHERE created_at < now() - make_interval(secs => $1 * 3600)
    ORDER BY created_at
    LIMIT ${STEP}
    FOR UPDATE SKIP LOCKED
  ))`;

export interface ClearKeysOptions {
  /** Keys older than this are deleted. */
  hours: number;
  /** How long each step may take, in ms. */
  timeoutMs: number;
}

/**
 * Deletes the keys older than `hours`; resolves with their number. When `signal` aborts it rejects and gives up the step in
 * flight, which a server that went silent would hold up; a connection that is being opened it waits for, within the pool's
 * timeout.
 */
export async function clearKeys(
  pool: Pool,
  { hours, timeoutMs }: ClearKeysOptions,
  signal?: AbortSignal,
): Promise<number> {
  for (let cleared = 0; ; await sleep(PAUSE_MS, undefined, { signal })) {
    const deleted = await withConnection(pool, timeoutMs, async (client) => {
      signal?.throwIfAborted();
      // `end` destroys the connection of a query in flight, which then rejects.
      const giveUp = () => void client.end();
      signal?.addEventListener('abort', giveUp);
      try {
        return (await client.query(DELETE_OLD, [hours])).rowCount ?? 0;
      } finally {
        signal?.removeEventListener('abort', giveUp);
      }
    });
    cleared += deleted;
    if (deleted < STEP) return cleared;
  }
}

export interface KeepClearingOptions extends ClearKeysOptions {
  logger: Logger;
  /** Time between two runs, in ms (a minute). */
  everyMs?: number;
}

/** Clears keys again and again; resolves when `signal` aborts. A run that fails is logged, and left to the next one. */
export async function keepClearingKeys(
  pool: Pool,
  { logger, everyMs = 60_000, ...options }: KeepClearingOptions,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await sleep(everyMs, undefined, { signal, ref: false });
      await clearKeys(pool, options, signal);
    } catch (error) {
      if (signal.aborted) return;
      logger.warn('Old idempotency keys were not deleted, trying again', {
        delay_ms: everyMs,
        reason: (error as Error).message,
      });
    }
  }
}
