/** Signals as an async iterable: the form of a listener for `for await`. */
import type { Signal } from '@pg-signals/db';
import type { Pool } from 'pg';
import { Listener, type ListenerOptions } from './listener.ts';

export interface ListenOptions extends Omit<ListenerOptions, 'concurrency'> {
  /** Ends the iteration. */
  signal?: AbortSignal;
}

/**
 * Yields every signal that is committed from the first `next()` on, with the guarantees of `Listener`: exactly once while
 * the iteration lasts.
 *
 * A signal counts as delivered when the loop asks for the next one. A slow loop slows nothing but itself: what comes
 * meanwhile waits in a bounded buffer, and past that in the table.
 *
 * The iteration ends when `signal` aborts or the loop is left; the connection is back in the pool then.
 *
 * @throws {RangeError} for a pool of fewer than two connections.
 */
export async function* listen(pool: Pool, options: ListenOptions = {}): AsyncGenerator<Signal, void, void> {
  const { signal: given, ...rest } = options;
  const left = new AbortController();
  // The callback resolves it; the loop awaits it, and puts a fresh one in its place before it yields.
  let arrival = Promise.withResolvers<Arrival | undefined>();
  const listener = new Listener(pool, rest, (signal) => {
    const done = Promise.withResolvers<void>();
    arrival.resolve({ signal, done: done.resolve });
    return done.promise;
  });
  const stop = given ? AbortSignal.any([given, left.signal]) : left.signal;
  const ended = listener.start(stop);
  stop.addEventListener('abort', () => arrival.resolve(undefined), { once: true });
  if (stop.aborted) arrival.resolve(undefined);
  let current: Arrival | undefined;
  try {
    for (;;) {
      current = await arrival.promise;
      if (!current) return;
      arrival = Promise.withResolvers();
      if (stop.aborted) arrival.resolve(undefined);
      yield current.signal;
      current.done();
    }
  } finally {
    left.abort();
    current?.done();
    await ended;
  }
}

/** A signal, and what says that the loop is through with it. */
interface Arrival {
  readonly signal: Signal;
  done(): void;
}
