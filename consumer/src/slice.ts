/** Divides the handing on of rows into slices of time, between which the process turns to its sockets. */
import { setImmediate as nextTurn } from 'node:timers/promises';

/** Time between two looks at the clock that must be over, in ms: twice that is as long as a slice takes. */
const HALF_MS = 25;
/** Rows between two looks at the clock. */
const LOOK_ROWS = 8;

/**
 * Callbacks that do not wait keep the process from its sockets for 50 ms at a time, as far as that is ours to decide.
 *
 * A slice ends with the second half that has gone by, each counted from a look at the clock: a single pause, of the
 * garbage collector or because the machine is busy, ends one half at the most. To end the slice for it would be dear: in
 * one turn Node reads up to 2 MB from a socket, which is more small rows than the buffer holds.
 */
export class Slice {
  #rows = 0;
  #halves = 0;
  #halfEnd = performance.now() + HALF_MS;

  /** To be asked after each row. */
  isOver(): boolean {
    if (++this.#rows % LOOK_ROWS > 0) return false;
    const now = performance.now();
    if (now < this.#halfEnd) return false;
    this.#halfEnd = now + HALF_MS;
    return ++this.#halves >= 2;
  }

  /** Lets the process do what waits; begins a new slice. */
  async next(): Promise<void> {
    await nextTurn();
    this.#halves = 0;
    this.#halfEnd = performance.now() + HALF_MS;
  }
}
