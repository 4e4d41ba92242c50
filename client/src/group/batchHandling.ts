/** Runs a group's handler on batches of rows, each in the transaction that stores the checkpoint. */

import type { PoolClient } from 'pg';
import type { FeedRow } from '../listen/feedTable.ts';
import type { BatchTransactions } from './batchTransactions.ts';
import { Condition, type Handling, type HandlingOptions, type Room, toError, type Work } from './handling.ts';
import type { Arrival } from './laneReading.ts';

/** Rows of a batch at most. */
const BATCH_ROWS = 1_000;

/**
 * Called with rows in order, in a transaction of its own connection. What it writes there and the checkpoint commit together, or
 * neither does: exactly once for whoever writes to the same database. One that ends the transaction itself, or goes on after an
 * error of one of its queries, has failed.
 */
export type BatchHandler<Row> = (rows: readonly Row[], tx: PoolClient) => Promise<unknown>;

/** `'lost'`: whether it committed is unknown, or the rows are another member's. */
export type Outcome = Error | 'lost' | undefined;

export interface BatchHandlingOptions<Row> extends Pick<HandlingOptions<Row>, 'isHeld' | 'defer' | 'finished'> {
  transactions: BatchTransactions<Row>;
}

export class BatchHandling<Row extends FeedRow> implements Handling<Row> {
  readonly #options: BatchHandlingOptions<Row>;
  readonly #unfinished = new Map<number, Work<Row>>();
  readonly #again = new Set<Work<Row>>();
  readonly #changed = new Condition();
  #waiting: Work<Row>[] = [];
  #running = false;
  #deferring = 0;
  #isReserved = false;
  #isCancelled = false;

  constructor(options: BatchHandlingOptions<Row>) {
    this.#options = options;
  }

  get unfinished(): Work<Row>[] {
    return [...this.#unfinished.values()];
  }

  take(row: Row, { xid, lane, key, suspect }: Arrival): Promise<void> | undefined {
    if (this.#isCancelled) return undefined;
    const work: Work<Row> = { row, id: row.id, xid, lane, key, attempt: 1, suspect };
    this.#unfinished.set(work.id, work);
    if (suspect) this.#defer(work, undefined);
    else {
      this.#waiting.push(work);
      if (!this.#running) void this.#run();
    }
    const isFull = () => this.#waiting.length >= BATCH_ROWS || this.#deferring >= BATCH_ROWS;
    return isFull() ? this.#changed.until(() => !isFull()) : undefined;
  }

  /** A row that runs again has its own transaction, beside that of a batch. */
  async reserve(): Promise<Room> {
    await this.#changed.until(() => !this.#isReserved);
    this.#isReserved = true;
    const release = (count: number) => {
      if (count > 0) this.#isReserved = false;
      this.#changed.changed();
    };
    return { size: 1, release };
  }

  async again(work: Work<Row>): Promise<Error | undefined> {
    if (this.#isCancelled) return undefined;
    this.#again.add(work);
    const outcome = await this.#options.transactions.commitAgain(work);
    this.#again.delete(work);
    this.#changed.changed();
    return outcome === 'lost' ? new Error('the transaction may not have committed') : outcome;
  }

  drop(lanes: ReadonlySet<number>): Work<Row>[] {
    const dropped = this.#waiting.filter(({ lane }) => lanes.has(lane));
    this.#waiting = this.#waiting.filter(({ lane }) => !lanes.has(lane));
    for (const { id } of dropped) this.#unfinished.delete(id);
    this.#changed.changed();
    return dropped;
  }

  cancel(): void {
    this.#isCancelled = true;
    this.#unfinished.clear();
    this.#waiting = [];
    this.#changed.changed();
  }

  finished(lanes: ReadonlySet<number>): Promise<void> {
    const isDone = ({ lane }: Work<Row>) => !lanes.has(lane);
    return this.#changed.until(() => this.unfinished.every(isDone) && [...this.#again].every(isDone));
  }

  idle(): Promise<void> {
    return this.#changed.until(() => !this.#running && this.#unfinished.size === 0 && this.#again.size === 0);
  }

  async #run(): Promise<void> {
    this.#running = true;
    await new Promise(setImmediate); // what comes in this turn of the event loop is one batch
    while (this.#waiting.length > 0) {
      const works = this.#waiting.splice(0, BATCH_ROWS);
      this.#changed.changed();
      await this.#commit(works);
    }
    this.#running = false;
    this.#changed.changed();
  }

  /** A batch that fails is run again in halves, in order: a row that fails alone is kept for later. */
  async #commit(works: readonly Work<Row>[]): Promise<void> {
    const held = works.filter(({ key }) => key !== undefined && this.#options.isHeld(key));
    for (const work of held) this.#defer(work, undefined);
    const free = works.filter((work) => !held.includes(work) && this.#unfinished.get(work.id) === work);
    if (free.length === 0) return;
    const outcome = await this.#options.transactions.commit(free);
    if (outcome === 'lost') return;
    if (outcome === undefined) {
      for (const work of free) this.#finish(work);
    } else if (free.length === 1) this.#defer(free[0]!, outcome);
    else {
      const half = Math.ceil(free.length / 2);
      await this.#commit(free.slice(0, half));
      await this.#commit(free.slice(half));
    }
  }

  #defer(work: Work<Row>, error: Error | undefined): void {
    this.#deferring++;
    this.#options.defer(work, error && toError(error)).then(() => {
      this.#deferring--;
      this.#finish(work);
    });
  }

  #finish(work: Work<Row>): void {
    if (this.#unfinished.get(work.id) === work) {
      this.#unfinished.delete(work.id);
      this.#options.finished(work);
    }
    this.#changed.changed();
  }
}
