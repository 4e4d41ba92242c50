/** Group commit: what arrives while an insert is in flight waits, and goes together into the next one. */
import { type Halving, inHalves } from './inHalves.ts';

export interface BatcherOptions<T, R> {
  /** Inserts all items in one transaction; resolves after the commit with a result for each, in order. */
  insert: (items: readonly T[]) => Promise<readonly R[]>;
  /** True for an error that an item is to blame for; any other fails the whole batch. */
  isRefusal: (error: unknown) => boolean;
  /** Items in one insert; a larger group goes alone. */
  maxBatch: number;
  /** Bytes in one insert; a larger group goes alone. */
  maxBatchBytes: number;
  /** Inserts at the same time. */
  maxInFlight: number;
  /** Items that may wait; past that `add` rejects. */
  maxQueue: number;
  /** Bytes that may wait. */
  maxQueueBytes: number;
  /** How long a group may take from `add` to its answer, in ms. `add` rejects at most a tenth later. */
  timeoutMs: number;
  /** Called after each commit with the number of items, and for each group the ms since it was added. */
  onCommit?: (items: number, waited: readonly number[]) => void;
}

/** The queue is full: no item of the group was inserted. */
export class OverloadedError extends Error {
  override name = 'OverloadedError';
}

/** The group was not answered in time. Where `sent` is true its insert had begun, and may have been committed. */
export class TimedOutError extends Error {
  override name = 'TimedOutError';
  readonly sent: boolean;
  constructor(message: string, sent: boolean) {
    super(message);
    this.sent = sent;
  }
}

/** Items that are inserted together or not at all. */
interface Group<T, R> {
  readonly items: readonly T[];
  readonly bytes: number;
  readonly addedAt: number;
  resolve(results: readonly R[]): void;
  reject(error: unknown): void;
}

/**
 * Turns of the event loop in which a batch may grow before it goes. Callers answered together send again together, over a
 * few turns: sent at the first of these, every other batch would hold a handful and still cost a flush of the disk.
 */
const MAX_TURNS = 5;

/** A batch of this many items goes at once: the server inserts it while we read more and answer the batch before. */
const LARGE = 128;

/**
 * Gathers groups of items into inserts, in the order in which they were added. No timer delays them: with nothing in
 * flight, a lone group goes at the end of the current turn of the event loop, several go after the first turn that brings
 * no more, and many go at once.
 *
 * Each group is answered after its own commit. A refused batch is inserted again in halves, so that a bad group fails
 * alone.
 */
export class Batcher<T, R> {
  readonly #options: BatcherOptions<T, R>;
  #queue: Group<T, R>[] = [];
  readonly #inFlight = new Set<readonly Group<T, R>[]>();
  #waitingItems = 0;
  #waitingBytes = 0;
  #gathering = false;
  /** Length of the queue one turn ago, and for how many turns it has grown. */
  #queued = 0;
  #turns = 0;
  #expiry: NodeJS.Timeout | undefined;
  #whenIdle: (() => void)[] = [];

  constructor(options: BatcherOptions<T, R>) {
    this.#options = options;
  }

  /** Items whose insert has not begun. */
  get waiting(): number {
    return this.#waitingItems;
  }

  /**
   * Inserts the items in one transaction, together with what others add at the same time; resolves after the commit.
   *
   * @param bytes roughly the memory that the items take.
   * @throws {OverloadedError} at once when the queue is full. An empty queue takes a group of any size.
   * @throws {TimedOutError} after `timeoutMs`.
   * @throws what `insert` rejected with for these items.
   */
  add(items: readonly T[], bytes: number): Promise<readonly R[]> {
    const { maxQueue, maxQueueBytes } = this.#options;
    const full = this.#waitingItems + items.length > maxQueue || this.#waitingBytes + bytes > maxQueueBytes;
    if (full && this.#waitingItems > 0) {
      return Promise.reject(new OverloadedError(`the queue is full: ${this.#waitingItems} signals wait`));
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ items, bytes, addedAt: performance.now(), resolve, reject });
      this.#waitingItems += items.length;
      this.#waitingBytes += bytes;
      this.#schedulePump();
      this.#expiry ??= setTimeout(this.#expire, this.#options.timeoutMs).unref();
    });
  }

  /** Resolves when no group waits and no insert is in flight. */
  async idle(): Promise<void> {
    if (this.#queue.length === 0 && this.#inFlight.size === 0) return;
    await new Promise<void>((resolve) => this.#whenIdle.push(resolve));
  }

  #schedulePump(): void {
    if (this.#inFlight.size >= this.#options.maxInFlight) return;
    if (this.#isLarge()) {
      this.#pump();
    } else if (!this.#gathering) {
      this.#gathering = true;
      setImmediate(this.#gather);
    }
  }

  /** True where waiting gains nothing: the server has enough to do, or the batch is full. */
  #isLarge(): boolean {
    const { maxBatch, maxBatchBytes } = this.#options;
    return this.#waitingItems >= Math.min(LARGE, maxBatch) || this.#waitingBytes >= maxBatchBytes;
  }

  /** Runs at the end of a turn of the event loop, after all that the turn read from the sockets was added. */
  #gather = (): void => {
    const grows = this.#queue.length > Math.max(1, this.#queued);
    if (grows && this.#turns < MAX_TURNS) {
      this.#queued = this.#queue.length;
      this.#turns++;
      setImmediate(this.#gather);
      return;
    }
    this.#gathering = false;
    this.#pump();
  };

  #pump(): void {
    this.#queued = 0;
    this.#turns = 0;
    while (this.#queue.length > 0 && this.#inFlight.size < this.#options.maxInFlight) {
      const batch = this.#takeBatch();
      this.#inFlight.add(batch);
      inHalves(batch, this.#halving).then(() => {
        this.#inFlight.delete(batch);
        if (this.#queue.length > 0) this.#schedulePump();
        else if (this.#inFlight.size === 0) this.#resolveIdle();
      });
    }
  }

  #takeBatch(): readonly Group<T, R>[] {
    const { maxBatch, maxBatchBytes } = this.#options;
    let [groups, items, bytes] = [0, 0, 0];
    for (const group of this.#queue) {
      const fits = items + group.items.length <= maxBatch && bytes + group.bytes <= maxBatchBytes;
      if (!fits && groups > 0) break;
      groups++;
      items += group.items.length;
      bytes += group.bytes;
    }
    this.#waitingItems -= items;
    this.#waitingBytes -= bytes;
    return this.#queue.splice(0, groups);
  }

  readonly #halving: Halving<Group<T, R>, readonly R[]> = {
    insert: (groups) =>
      this.#options.insert(groups.length === 1 ? groups[0]!.items : groups.flatMap(({ items }) => items)),
    isRefusal: (error) => this.#options.isRefusal(error),
    inserted: (groups, results) => this.#answer(groups, results),
    failed(groups, error) {
      for (const group of groups) group.reject(error);
    },
  };

  #answer(batch: readonly Group<T, R>[], results: readonly R[]): void {
    const now = performance.now();
    this.#inFlight.delete(batch); // a half of a refused batch is not in there: the whole batch stays until its end
    if (this.#isLarge()) this.#pump();
    let next = 0;
    for (const group of batch) {
      group.resolve(results.slice(next, next + group.items.length));
      next += group.items.length;
    }
    this.#options.onCommit?.(
      results.length,
      batch.map((group) => now - group.addedAt),
    );
  }

  /** One timer, set to the oldest group: a timer for each group would cost more than the queue itself. */
  #expire = (): void => {
    const { timeoutMs } = this.#options;
    const oldest = performance.now() - timeoutMs;
    let late = 0;
    while (late < this.#queue.length && this.#queue[late]!.addedAt <= oldest) late++;
    for (const group of this.#queue.splice(0, late)) {
      this.#waitingItems -= group.items.length;
      this.#waitingBytes -= group.bytes;
      group.reject(new TimedOutError(`not sent to the database within ${timeoutMs} ms`, false));
    }
    // Rejecting a group that is already answered does nothing: a promise settles once.
    for (const batch of this.#inFlight) {
      for (const group of batch) {
        if (group.addedAt > oldest) continue;
        group.reject(new TimedOutError(`not confirmed by the database within ${timeoutMs} ms`, true));
      }
    }
    const pending = this.#queue.length > 0 || this.#inFlight.size > 0;
    this.#expiry = pending ? setTimeout(this.#expire, Math.max(1, timeoutMs / 10)).unref() : undefined;
    if (!pending) this.#resolveIdle();
  };

  #resolveIdle(): void {
    for (const resolve of this.#whenIdle.splice(0)) resolve();
  }
}
