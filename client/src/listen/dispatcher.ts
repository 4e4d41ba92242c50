/** Delivers each row to every callback, in order, with a bound on how many are being worked on. */
import type { Logger } from '../logger.ts';

/** Where a callback returns a promise, it is awaited. What a callback throws or rejects with is logged, nothing more. */
export type Callback<T> = (item: T) => unknown;

export interface DispatcherOptions {
  /** Items that may be worked on at a time. */
  concurrency: number;
  logger: Logger;
  /** Called for each callback that throws or rejects. */
  onFailure: () => void;
}

export class Dispatcher<T extends { readonly id: number }> {
  readonly #callbacks: readonly Callback<T>[];
  readonly #concurrency: number;
  readonly #logger: Logger;
  readonly #onFailure: () => void;
  #working = 0;
  #released = Promise.withResolvers<void>();

  constructor(callbacks: readonly Callback<T>[], { concurrency, logger, onFailure }: DispatcherOptions) {
    this.#callbacks = callbacks;
    this.#concurrency = concurrency;
    this.#logger = logger;
    this.#onFailure = onFailure;
  }

  /**
   * Calls the callbacks with an item. Returns a promise when the caller must wait before the next one: until fewer than
   * `concurrency` items are being worked on.
   */
  deliver(item: T): Promise<void> | undefined {
    const waiting = callAll(this.#callbacks, item, (error) => this.#failed(item, error));
    if (!waiting) return undefined;
    this.#working++;
    waiting.then(() => {
      this.#working--;
      this.#released.resolve();
      this.#released = Promise.withResolvers();
    });
    return this.#working < this.#concurrency ? undefined : this.#until(() => this.#working < this.#concurrency);
  }

  /** Resolves when no item is being worked on. */
  async idle(): Promise<void> {
    await this.#until(() => this.#working === 0);
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) await this.#released.promise;
  }

  #failed(item: T, error: unknown): void {
    this.#onFailure();
    this.#logger.error('Callback failed, going on', { id: item.id, error });
  }
}

/** Calls each callback with an item. Resolves when all are done; undefined where none returned a promise. Never rejects. */
export function callAll<T>(
  callbacks: readonly Callback<T>[],
  item: T,
  onFailure: (error: unknown) => void,
): Promise<unknown> | undefined {
  let waiting: Promise<unknown>[] | undefined;
  for (const callback of callbacks) {
    try {
      const result = callback(item);
      if (!isThenable(result)) continue;
      waiting ??= [];
      waiting.push(Promise.resolve(result).catch(onFailure));
    } catch (error) {
      onFailure(error);
    }
  }
  return waiting && Promise.all(waiting);
}

export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as PromiseLike<unknown>).then === 'function';
}
