/** A queue with a bound: what was received and is not delivered yet. */

/** After this many taken items the array is cut: shifting off each one would move the rest each time. */
const CUT = 1_024;

export class BoundedBuffer<T> {
  #items: T[] = [];
  #head = 0;
  readonly #max: number;

  constructor(max: number) {
    this.#max = max;
  }

  get length(): number {
    return this.#items.length - this.#head;
  }

  /** @returns false, and keeps nothing of it, when the buffer is full. */
  push(item: T): boolean {
    if (this.#items.length - this.#head >= this.#max) return false;
    this.#items.push(item);
    return true;
  }

  /** The item that waits longest, or undefined. */
  shift(): T | undefined {
    if (this.#head === this.#items.length) return undefined;
    const item = this.#items[this.#head++];
    if (this.#head === this.#items.length) {
      this.#items = [];
      this.#head = 0;
    } else if (this.#head >= CUT && this.#head * 2 >= this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** The items that wait, from the one that waits longest on. */
  *waiting(): Generator<T> {
    for (let at = this.#head; at < this.#items.length; at++) yield this.#items[at]!;
  }

  clear(): void {
    this.#items = [];
    this.#head = 0;
  }
}
