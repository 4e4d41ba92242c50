/** The one function type that ours and the rivals implement. */
import type { Signal, TruncatedSignal } from '@pg-signals/db';

export interface Hooks {
  /** Call it when listening, unless the log says so: whatever is committed from then on must be delivered. */
  listening(): void;
  /** Call it with each signal. Where it returns a promise the callback is slow: await it if you can. */
  received(signal: Signal | TruncatedSignal): Promise<void> | undefined;
  /** Ends the process, which can't go on. */
  fail(error: Error): void;
}

/**
 * Consumes until `signal` aborts.
 *
 * @param name the `application_name` by which the faults find its backends.
 */
export type Consume = (url: string, name: string, hooks: Hooks, signal: AbortSignal) => Promise<void>;
