/** Listens for signals on one connection and hands each to the callbacks. */
import { setTimeout as sleep } from 'node:timers/promises';
import { PayloadError, parseSignal, SIGNALS_CHANNEL, type Signal } from '@pg-signals/db';
import { backoff, createLogger, type Logger } from '@pg-signals/runtime';
import type pg from 'pg';

/** Called with every signal, in the order of delivery. What it throws or rejects with is logged, and that is all. */
export type SignalCallback = (signal: Signal) => unknown;

/** What a listener tells of itself; each is optional. */
export interface ListenerOptions {
  logger?: Logger;
  onListening?: (listening: boolean) => void;
  onReconnect?: () => void;
  onInvalidPayload?: () => void;
}

/**
 * Hands every signal that is notified while it listens to each callback. A lost connection is replaced for ever, with
 * backoff; signals committed in between are not seen.
 */
export class Listener {
  readonly #pool: pg.Pool;
  readonly #options: ListenerOptions;
  readonly #logger: Logger;
  readonly #callbacks: readonly SignalCallback[];

  constructor(pool: pg.Pool, ...callbacks: SignalCallback[]);
  constructor(pool: pg.Pool, options: ListenerOptions, ...callbacks: SignalCallback[]);
  constructor(pool: pg.Pool, first: ListenerOptions | SignalCallback = {}, ...rest: SignalCallback[]) {
    const [options, callbacks] = typeof first === 'function' ? [{}, [first, ...rest]] : [first, rest];
    this.#pool = pool;
    this.#options = options;
    this.#logger = options.logger ?? createLogger();
    this.#callbacks = callbacks;
  }

  /** Listens until `signal` aborts; resolves when the connection is back in the pool, with UNLISTEN done. */
  async start(signal: AbortSignal): Promise<void> {
    for (let attempt = 1; !signal.aborted; attempt++) {
      try {
        await this.#listen(signal, () => {
          attempt = 0;
        });
      } catch (error) {
        const delay = backoff(Math.max(attempt, 1));
        this.#options.onReconnect?.();
        this.#logger.warn('Not listening, connecting again', {
          reason: (error as Error).message,
          delay_ms: delay,
          attempt: attempt + 1,
        });
        await sleep(delay, undefined, { signal }).catch(() => {});
      }
    }
  }

  /** Listens on one connection until `signal` aborts; rejects when the connection is lost. */
  async #listen(signal: AbortSignal, onListening: () => void): Promise<void> {
    const client = await this.#pool.connect();
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => {}); // it may be lost at a moment when nobody waits for it
    const onError = (error: Error) => lost.reject(error);
    const onEnd = () => lost.reject(new Error('the connection ended'));
    const onNotification = ({ payload = '' }: pg.Notification) => this.#deliver(payload);
    client.on('error', onError).on('end', onEnd).on('notification', onNotification);
    let failure: Error | undefined;
    try {
      await client.query(`LISTEN ${SIGNALS_CHANNEL}`);
      onListening();
      this.#options.onListening?.(true);
      this.#logger.info('Starting listener', { channel: SIGNALS_CHANNEL });
      await Promise.race([lost.promise, aborted(signal)]);
      await client.query('UNLISTEN *');
    } catch (error) {
      failure = error as Error;
      throw error;
    } finally {
      this.#options.onListening?.(false);
      client.off('error', onError).off('end', onEnd).off('notification', onNotification);
      client.release(failure);
    }
  }

  #deliver(payload: string): void {
    let signal: Signal;
    try {
      const parsed = parseSignal(payload);
      if ('truncated' in parsed) return;
      signal = parsed;
    } catch (error) {
      if (!(error instanceof PayloadError)) throw error;
      this.#options.onInvalidPayload?.();
      this.#logger.warn('Payload is not a signal, skipping it', {
        reason: error.message,
        payload: payload.slice(0, 200),
      });
      return;
    }
    for (const callback of this.#callbacks) {
      Promise.try(callback, signal).catch((error) =>
        this.#logger.error('Callback failed, going on', { id: signal.id, error }),
      );
    }
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
}
