/** The ways to follow the signals: every one of them (`broadcast.ts`, `slotHolder.ts`), or a share (`groupMember.ts`). */
import type { createPool } from '@pg-signals/db';
import type { Logger } from '@pg-signals/runtime';
import type { ListenerOptions } from 'pg-signals';
import type { Registry } from 'prom-client';
import type { ConsumerCallback } from './received.ts';
import type { ConsumerSettings } from './settings.ts';

export interface Following {
  /** Follows until `signal` aborts. Rejects where it can't go on. */
  start(signal: AbortSignal): Promise<void>;
  /** @throws {Error} whose message says why not everything has arrived here that should have. */
  requireLevel(): void | Promise<void>;
}

export interface FollowingParts {
  pool: ReturnType<typeof createPool>;
  settings: ConsumerSettings;
  logger: Logger;
  metrics: Registry;
  callbacks: readonly ConsumerCallback[];
}

export const listenerOptions = (settings: ConsumerSettings, logger: Logger): ListenerOptions => ({
  logger,
  bufferMax: settings.LISTEN_BUFFER_MAX,
  maxRowBytes: settings.LISTEN_MAX_ROW_BYTES,
  proofIntervalMs: settings.LISTEN_PROOF_INTERVAL_MS,
  proofEvery: settings.LISTEN_PROOF_EVERY,
  proofTimeoutMs: settings.LISTEN_PROOF_TIMEOUT_MS,
  pollMs: settings.LISTEN_POLL_MS,
  retryMs: settings.LISTEN_RETRY_MS,
});

/** A proof is missed twice before the service says that it is not ready. */
const PROOFS = 3;

/** @throws {Error} whose message says how old the last proof is. */
export function requireFresh(ageMs: number | undefined, { LISTEN_PROOF_INTERVAL_MS }: ConsumerSettings): void {
  const maxMs = PROOFS * LISTEN_PROOF_INTERVAL_MS;
  if (ageMs === undefined) throw new Error('Nothing has been received yet: the log says why, and what is tried next.');
  if (ageMs <= maxMs) return;
  throw new Error(
    `The last proof that every signal arrives is ${(ageMs / 1000).toFixed(1)} s old, more than ${maxMs / 1000} s: the log says why, and what is tried next.`,
  );
}
