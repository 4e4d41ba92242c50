/** Divides delivery into slices of time, between which the process reads its sockets. */
import { setImmediate as nextTurn } from 'node:timers/promises';

/** A slice is two of these, in ms. */
const HALF_MS = 25;
/** Rows between two checks of the clock. */
const CHECK_ROWS = 8;

/**
 * Synchronous callbacks keep the process from its sockets for 50 ms at a time, unless one alone takes longer.
 *
 * A slice ends when two halves are over, each counted from a check of the clock: a single pause, of the garbage collector or
 * of a busy machine, ends at most one half. Ending the slice for such a pause would be expensive: in one turn Node reads up
 * to 2 MB from a socket, which is more small rows than the buffer holds.
 */
export class TimeSlice {
  #rows = 0;
  #halves = 0;
  #halfEnd = performance.now() + HALF_MS;

  /** To be called after each row. */
  isOver(): boolean {
    if (++this.#rows % CHECK_ROWS > 0) return false;
    const now = performance.now();
    if (now < this.#halfEnd) return false;
    this.#halfEnd = now + HALF_MS;
    return ++this.#halves >= 2;
  }

  /** Lets the process do what waits, then begins a new slice. */
  async next(): Promise<void> {
    await nextTurn();
    this.#halves = 0;
    this.#halfEnd = performance.now() + HALF_MS;
  }
}
