/** A bound on the bytes of requests that a process holds, from the first one received to the answer. */
import { Problem } from '@pg-signals/runtime';

export class HeldBytes {
  readonly #max: number;
  readonly #onRefused: () => void;
  #bytes = 0;

  /** @param onRefused is called for each request that would exceed `max`. */
  constructor(max: number, onRefused: () => void) {
    this.#max = max;
    this.#onRefused = onRefused;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** False where that would exceed the bound: then nothing is taken. */
  add(bytes: number): boolean {
    if (this.#bytes + bytes > this.#max) return false;
    this.#bytes += bytes;
    return true;
  }

  subtract(bytes: number): void {
    this.#bytes -= bytes;
  }

  /** The answer to a request that is not held. */
  refuse(): Problem {
    this.#onRefused();
    return new Problem(503, 'The requests in flight are too large together (INGEST_MAX_HELD_BYTES): send it again.', {
      members: { may_be_in: false },
      headers: { 'Retry-After': '1' },
    });
  }
}

/** What one request holds. */
export class RequestBytes {
  readonly #all: HeldBytes;
  #bytes = 0;

  constructor(all: HeldBytes) {
    this.#all = all;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** False where all requests together would hold too much. */
  hold(bytes: number): boolean {
    if (!this.#all.add(bytes)) return false;
    this.#bytes += bytes;
    return true;
  }

  release(bytes = this.#bytes): void {
    this.#bytes -= bytes;
    this.#all.subtract(bytes);
  }

  refuse(): Problem {
    return this.#all.refuse();
  }
}
