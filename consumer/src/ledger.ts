/** Remembers where to resume, and what was handed on since, so that resuming neither skips nor repeats. */
import type { Position } from './position.ts';

/** What was handed on after a position was asked for, and before the next one was. */
export interface Step {
  /** Undefined as long as it is not proved. */
  position: Position | undefined;
  readonly ids: number[];
}

/**
 * Positions in the order of their time, the oldest being the one to resume from.
 *
 * A new position replaces the older ones when the server's log up to it is on disk, and not before: after a crash,
 * transactions that ended without reaching the disk never were, and their numbers are given out again. Whoever resumed
 * from a snapshot that counts them as past would skip the rows of those that come after.
 */
export class Ledger {
  #steps: Step[];
  /** Those of the last step, where `record` writes: it runs once for each row. */
  #ids: number[] = [];

  constructor(position: Position, ids: number[] = []) {
    this.#ids = ids;
    this.#steps = [{ position, ids }];
  }

  /** The position to resume from. */
  get position(): Position {
    return this.#steps[0]!.position!;
  }

  record(id: number): void {
    this.#ids.push(id);
  }

  /** To be called before a position is asked for: what was handed on by now is in it. */
  begin(): Step {
    const step: Step = { position: undefined, ids: [] };
    this.#steps.push(step);
    this.#ids = step.ids;
    return step;
  }

  /** Everything that the position of this step sees has been handed on. */
  proved(step: Step, position: Position): void {
    step.position = position;
    // A position tells how far the log was on disk: far enough for those before it, for itself in most cases not yet.
    const durable = this.#steps.findLastIndex((each) => each.position && each.position.lsn <= position.flushedLsn);
    if (durable > 0) this.#steps.splice(0, durable);
  }

  /** All that was handed on since `position` was taken. */
  handedOn(): Set<number> {
    const ids = new Set<number>();
    for (const step of this.#steps) for (const id of step.ids) ids.add(id);
    return ids;
  }

  /**
   * Forgets what may have been committed after `lsn`: what was handed on after the last position up to there. Returns how
   * many rows that were.
   */
  forgetAfter(lsn: bigint): number {
    const last = this.#steps.findLastIndex(({ position }) => position && position.lsn <= lsn);
    const doubtful = this.#steps.slice(Math.max(last, 0));
    return doubtful.reduce((rows, { ids }) => rows + ids.splice(0).length, 0);
  }
}
