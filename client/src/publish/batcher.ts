/** Group commit: what arrives while an insert is in flight waits together and goes in the next one. */

export interface BatcherOptions<T, R> {
  /** Inserts all items in one transaction; resolves after its commit with a result for each, in order. */
  insert: (items: readonly T[]) => Promise<readonly R[]>;
  /** True for an error that an item is to blame for; any other is taken to concern the whole batch. */
  isRefusal: (error: unknown) => boolean;
  /** Items in one insert; a group that is larger goes alone. */
  maxBatch: number;
  /** The sum of the sizes of the groups in one insert, in bytes; a larger group goes alone. */
  maxBatchBytes: number;
  /** Inserts at the same time. */
  maxInFlight: number;
  /** Items that may wait; past it `add` rejects. */
  maxQueue: number;
  /** The same in bytes. */
  maxQueueBytes: number;
  /** How long a group may take from `add` to its answer, in ms; told late by a tenth at the most. */
  timeoutMs: number;
  /** Told of every insert that was committed: its items, and for each group the ms since it was added. */
  onCommit?: (items: number, waited: readonly number[]) => void;
}

/** Too much waits already: nothing of the group is in. */
export class OverloadedError extends Error {
  override name = 'OverloadedError';
}

/** The group was not answered in time. `sent` is true where its insert had begun: then it may have gone in. */
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
 * Turns of the event loop in which a batch may grow before it goes. The senders of one batch are answered together and
 * send again together, over a few turns: without waiting for the rest of them, every other batch is a handful, and costs a
 * flush of the disk all the same.
 */
const MAX_TURNS = 5;

/** A batch of so many items goes at once: the server can insert it while we read what else came, and answer the one before. */
const LARGE = 128;

/**
 * Gathers groups of items into inserts, in the order in which they were added. No timer waits for company: with nothing in
 * flight, a lone group goes at the end of the current turn of the event loop, several go after the first turn that brings
 * no more, and many go at once.
 *
 * Each group is answered after its own commit. One that is refused fails alone: its batch is inserted again in halves.
 */
export class Batcher<T, R> {
  readonly #options: BatcherOptions<T, R>;
  #queue: Group<T, R>[] = [];
  readonly #inFlight = new Set<readonly Group<T, R>[]>();
  #waitingItems = 0;
  #waitingBytes = 0;
  #gathering = false;
  /** How long the queue was a turn ago, and how many turns it has been growing for. */
  #queued = 0;
  #turns = 0;
  #expiry: NodeJS.Timeout | undefined;
  #whenIdle: (() => void)[] = [];

  constructor(options: BatcherOptions<T, R>) {
    this.#options = options;
  }

  /** Items that wait for their insert to begin. */
  get waiting(): number {
    return this.#waitingItems;
  }

  /**
   * Inserts the items in one transaction, together with what others add at the same time; resolves after the commit.
   *
   * @param bytes about how much memory the items take.
   * @throws {OverloadedError} at once where too much waits already. A group too large for any queue is taken by an empty one.
   * @throws {TimedOutError} when `timeoutMs` have passed.
   * @throws what `insert` rejected with for these items.
   */
  add(items: readonly T[], bytes: number): Promise<readonly R[]> {
    const { maxQueue, maxQueueBytes } = this.#options;
    const full = this.#waitingItems + items.length > maxQueue || this.#waitingBytes + bytes > maxQueueBytes;
    if (full && this.#waitingItems > 0) {
      return Promise.reject(new OverloadedError(`${this.#waitingItems} signals wait already`));
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ items, bytes, addedAt: performance.now(), resolve, reject });
      this.#waitingItems += items.length;
      this.#waitingBytes += bytes;
      this.#schedulePump();
      this.#expiry ??= setTimeout(this.#expire, this.#options.timeoutMs).unref();
    });
  }

  /** Resolves when nothing waits and nothing is in flight. */
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

  /** There is nothing to gain from what else may come: the server has enough to do, or the batch is full. */
  #isLarge(): boolean {
    const { maxBatch, maxBatchBytes } = this.#options;
    return this.#waitingItems >= Math.min(LARGE, maxBatch) || this.#waitingBytes >= maxBatchBytes;
  }

  /** At the end of a turn of the event loop, when all that it read from the sockets is here. */
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
      this.#insert(batch).then(() => {
        this.#inFlight.delete(batch);
        if (this.#queue.length > 0) this.#schedulePump();
        else if (this.#inFlight.size === 0) this.#tellIdle();
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

  /** Answers every group of the batch; never rejects. */
  async #insert(batch: readonly Group<T, R>[]): Promise<void> {
    const items = batch.length === 1 ? batch[0]!.items : batch.flatMap((group) => group.items);
    let results: readonly R[];
    try {
      results = await this.#options.insert(items);
    } catch (error) {
      if (batch.length === 1 || !this.#options.isRefusal(error)) {
        for (const group of batch) group.reject(error);
        return;
      }
      const middle = batch.length >> 1;
      await this.#insert(batch.slice(0, middle));
      await this.#insert(batch.slice(middle));
      return;
    }
    const now = performance.now();
    this.#inFlight.delete(batch);
    if (this.#isLarge()) this.#pump();
    let next = 0;
    for (const group of batch) {
      group.resolve(results.slice(next, next + group.items.length));
      next += group.items.length;
    }
    this.#options.onCommit?.(
      items.length,
      batch.map((group) => now - group.addedAt),
    );
  }

  /** One timer for all, set to the oldest group: a timer for each would cost more than the rest of the queue. */
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
    // A group that was answered already takes no second answer: a promise is settled once.
    for (const batch of this.#inFlight) {
      for (const group of batch) {
        if (group.addedAt > oldest) continue;
        group.reject(new TimedOutError(`not confirmed by the database within ${timeoutMs} ms`, true));
      }
    }
    const pending = this.#queue.length > 0 || this.#inFlight.size > 0;
    this.#expiry = pending ? setTimeout(this.#expire, Math.max(1, timeoutMs / 10)).unref() : undefined;
    if (!pending) this.#tellIdle();
  };

  #tellIdle(): void {
    for (const resolve of this.#whenIdle.splice(0)) resolve();
  }
}
