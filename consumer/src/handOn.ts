/** Hands each item to every callback, in order, with a bound on how many are being worked on. */
import type { Logger } from '@pg-signals/runtime';

/** What a callback returns is awaited where it is a promise; what it throws or rejects with is logged, and that is all. */
export type Callback<T> = (item: T) => unknown;

export class HandOn<T extends { readonly id: number }> {
  readonly #callbacks: readonly Callback<T>[];
  readonly #concurrency: number;
  readonly #logger: Logger;
  #inHand = 0;
  #released = Promise.withResolvers<void>();

  constructor(callbacks: readonly Callback<T>[], { concurrency, logger }: { concurrency: number; logger: Logger }) {
    this.#callbacks = callbacks;
    this.#concurrency = concurrency;
    this.#logger = logger;
  }

  /**
   * Calls the callbacks with an item. Returns a promise when the caller must wait before the next one: until fewer than
   * `concurrency` items are in hand.
   */
  give(item: T): Promise<void> | undefined {
    let waiting: Promise<unknown>[] | undefined;
    for (const callback of this.#callbacks) {
      try {
        const result = callback(item);
        if (!isThenable(result)) continue;
        waiting ??= [];
        waiting.push(Promise.resolve(result).catch((error) => this.#failed(item, error)));
      } catch (error) {
        this.#failed(item, error);
      }
    }
    if (!waiting) return undefined;
    this.#inHand++;
    Promise.all(waiting).then(() => {
      this.#inHand--;
      this.#released.resolve();
      this.#released = Promise.withResolvers();
    });
    return this.#inHand < this.#concurrency ? undefined : this.#until(() => this.#inHand < this.#concurrency);
  }

  /** Resolves when no item is in hand. */
  async idle(): Promise<void> {
    await this.#until(() => this.#inHand === 0);
  }

  async #until(holds: () => boolean): Promise<void> {
    while (!holds()) await this.#released.promise;
  }

  #failed(item: T, error: unknown): void {
    this.#logger.error('Callback failed, going on', { id: item.id, error });
  }
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as PromiseLike<unknown>).then === 'function';
}
