/** Joins bytes that come in parts. A list of small parts would take a hundred times their size. */

const EMPTY = Buffer.alloc(0);

export class GrowingBuffer {
  #bytes: Buffer = EMPTY;
  #length = 0;

  get length(): number {
    return this.#length;
  }

  /** Keeps the first part as it is, and copies it when a second one comes. */
  append(part: Buffer): void {
    const length = this.#length + part.length;
    if (this.#length === 0) {
      this.#bytes = part;
    } else {
      if (length > this.#bytes.length) {
        const grown = Buffer.allocUnsafe(Math.max(length, 2 * this.#length));
        this.#bytes.copy(grown, 0, 0, this.#length);
        this.#bytes = grown;
      }
      part.copy(this.#bytes, this.#length);
    }
    this.#length = length;
  }

  /** Returns all that was appended, and empties the buffer. */
  take(): Buffer {
    const whole = this.#bytes.subarray(0, this.#length);
    this.#bytes = EMPTY;
    this.#length = 0;
    return whole;
  }
}
