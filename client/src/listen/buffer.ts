/** A queue with a bound: what was received and is not delivered yet. */

/** A ring: the array grows to `max` items, and then the places of those taken are used again. */
export class BoundedBuffer<T> {
  readonly #max: number;
  #items: (T | undefined)[] = [];
  #head = 0;
  #length = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get length(): number {
    return this.#length;
  }

  /** @returns false, and keeps nothing of it, when the buffer is full. */
  push(item: T): boolean {
    if (this.#length >= this.#max) return false;
    this.#items[this.#place(this.#length++)] = item;
    return true;
  }

  /** The item that waits longest, or undefined. */
  shift(): T | undefined {
    if (this.#length === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head = this.#place(1);
    this.#length--;
    return item;
  }

  /** The items that wait, from the one that waits longest on. */
  *waiting(): Generator<T> {
    for (let offset = 0; offset < this.#length; offset++) yield this.#items[this.#place(offset)]!;
  }

  clear(): void {
    this.#items = [];
    this.#head = this.#length = 0;
  }

  #place(offset: number): number {
    return (this.#head + offset) % this.#max;
  }
}
