/** What every consumer under test is given, and how it ends: ours and the rivals implement this one function type. */
import type { Signal, TruncatedSignal } from '@pg-signals/db';

export interface Hooks {
  /** To be called once it listens: what is committed from then on must arrive. */
  listening(): void;
  /** To be called with each signal handed on. Where it returns a promise, the callback is slow: wait if you can. */
  received(signal: Signal | TruncatedSignal): Promise<void> | undefined;
  log(lines: string): void;
  /** Ends the process: it can't go on. */
  fail(error: Error): void;
}

/**
 * Consumes until `signal` aborts.
 *
 * @param name what `application_name` must be, for the faults to find its backends.
 */
export type Consume = (url: string, name: string, hooks: Hooks, signal: AbortSignal) => Promise<void>;
