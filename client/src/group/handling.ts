/** Runs a group's handler: so many rows at a time, each with a time limit, those of one key one after another. */
import { isThenable } from '../listen/dispatcher.ts';
import type { FeedRow } from '../listen/feedTable.ts';
import type { UnfinishedRow } from './laneCursor.ts';
import type { Arrival } from './laneReading.ts';

/** Rows that wait behind others of their key at most; past that, the member takes no more. */
const WAITING_MAX = 1_000;

/** What a handler knows beside the row. */
export interface HandlerContext {
  /** 1 for the first run. */
  readonly attempt: number;
  readonly lane: number;
  /** Of the lane, a fencing token: its owner always has a higher one than the owner before. */
  readonly epoch: number;
  /** Aborts when the time limit is over, or the row is another member's now. */
  readonly signal: AbortSignal;
}

/** Called with each row. It is handled when this returns, or the promise that it returns resolves. */
export type Handler<Row> = (row: Row, context: HandlerContext) => unknown;

/** The handler did not finish within the time limit. */
export class HandlerTimeoutError extends Error {
  override name = 'HandlerTimeoutError';
}

/** A row on its way through the handler. */
export interface Work<Row> extends UnfinishedRow {
  readonly row: Row;
  readonly key: string | undefined;
  readonly attempt: number;
  /** An owner that was given up may have begun it. */
  readonly suspect: boolean;
}

/** Room for rows that run again: while it is reserved, fewer run for the first time. */
export interface Room {
  readonly size: number;
  release(count: number): void;
}

export interface HandlingOptions<Row> {
  handler: Handler<Row>;
  concurrency: number;
  timeoutMs: number;
  /** Under which a lane is owned. */
  epochOf: (lane: number) => number;
  /** False where nothing may begin now, beside what was taken so: `resume` is called when that is over. */
  mayBegin: () => boolean;
  /** True where a failed row of this key waits for its next run: then so does every later one. */
  isHeld: (key: string) => boolean;
  /** Keeps a row for a later run. It counts as unfinished until this resolves; it never rejects. */
  defer: (work: Work<Row>, error: Error | undefined) => Promise<void>;
  /** Called when a row is handled, or kept for a later run. */
  finished: (work: Work<Row>) => void;
}

/** What a member hands its rows to. */
export interface Handling<Row> {
  /** Rows that were taken and are not done. */
  readonly unfinished: readonly Work<Row>[];
  /** Resolves with room for so many rows, or for fewer, as soon as there is some. */
  reserve(wanted: number): Promise<Room>;
  /** Takes a row for its first run. Returns a promise when the caller must wait before the next one. */
  take(row: Row, arrival: Arrival): Promise<void> | undefined;
  /** Runs a row once more, now. Resolves with the error that it failed with. */
  again(work: Work<Row>): Promise<Error | undefined>;
  /** Takes the rows of these lanes that wait, and were not begun, out of the queue. */
  drop(lanes: ReadonlySet<number>): Work<Row>[];
  /** The rows are another member's now: tells the handlers that run. Their results count no more. */
  cancel(): void;
  /** Resolves when no row of these lanes is unfinished or runs again. */
  finished(lanes: ReadonlySet<number>): Promise<void>;
  /** Resolves when no handler runs and no row is unfinished. */
  idle(): Promise<void>;
}

/** Rows one by one. */
export class EachHandling<Row extends FeedRow> implements Handling<Row> {
  readonly #options: HandlingOptions<Row>;
  readonly #unfinished = new Map<number, Work<Row>>();
  /** By key: the rows that wait behind the one that runs, or is ready. */
  readonly #keys = new Map<string, Work<Row>[]>();
  /** Their turn among those of their key has come, and there is no room, or no lease. */
  #ready: Work<Row>[] = [];
  /** The handlers that have returned a promise. */
  readonly #running = new Map<Work<Row>, Context>();
  readonly #released = new Condition();
  /** How many of those run for the first time. */
  #first = 0;
  #reserved = 0;
  /** How many wait for room: first runs leave it to them. */
  #reserving = 0;
  #waiting = 0;
  #deferring = 0;
  #isCancelled = false;

  constructor(options: HandlingOptions<Row>) {
    this.#options = options;
  }

  get unfinished(): Work<Row>[] {
    return [...this.#unfinished.values()];
  }

  /** Rows may begin again. */
  resume(): void {
    this.#changed();
  }

  async reserve(wanted: number): Promise<Room> {
    const { concurrency } = this.#options;
    const room = () => concurrency - this.#first - this.#reserved;
    this.#reserving++;
    await this.#released.until(() => room() > 0);
    this.#reserving--;
    const size = Math.min(wanted, room());
    this.#reserved += size;
    const release = (count: number) => {
      this.#reserved -= count;
      this.#changed();
    };
    return { size, release };
  }

  take(row: Row, { xid, lane, key, suspect }: Arrival): Promise<void> | undefined {
    if (this.#isCancelled) return undefined;
    const work: Work<Row> = { row, id: row.id, xid, lane, key, attempt: 1, suspect };
    if (suspect || (key !== undefined && this.#options.isHeld(key))) this.#defer(work, undefined);
    else if (key === undefined) this.#run(work);
    else this.#queue(work, key);
    return this.#isFull() ? this.#released.until(() => !this.#isFull()) : undefined;
  }

  async again(work: Work<Row>): Promise<Error | undefined> {
    // `groups retry` may have put it before rows of its key that run for the first time.
    await this.#released.until(() => work.key === undefined || !this.#keys.has(work.key));
    if (this.#isCancelled) return undefined;
    return new Promise((resolve) => this.#start(work, resolve));
  }

  drop(lanes: ReadonlySet<number>): Work<Row>[] {
    const dropped = this.#ready.filter(({ lane }) => lanes.has(lane));
    this.#ready = this.#ready.filter(({ lane }) => !lanes.has(lane));
    for (const { key } of dropped) {
      dropped.push(...this.#keys.get(key!)!);
      this.#keys.delete(key!);
    }
    for (const queue of this.#keys.values()) {
      if (queue[0] && lanes.has(queue[0].lane)) dropped.push(...queue.splice(0));
    }
    for (const { id } of dropped) this.#unfinished.delete(id);
    this.#waiting -= dropped.length;
    return dropped;
  }

  cancel(): void {
    this.#isCancelled = true;
    for (const context of this.#running.values()) context.abort();
    this.#unfinished.clear();
    this.#keys.clear();
    this.#ready = [];
    this.#waiting = 0;
    this.#released.changed();
  }

  finished(lanes: ReadonlySet<number>): Promise<void> {
    const isDone = ({ lane }: Work<Row>) => !lanes.has(lane);
    return this.#released.until(() => this.unfinished.every(isDone) && [...this.#running.keys()].every(isDone));
  }

  idle(): Promise<void> {
    return this.#released.until(() => this.#running.size === 0 && this.#unfinished.size === 0);
  }

  get #hasRoom(): boolean {
    return this.#first + this.#reserved + this.#reserving < this.#options.concurrency;
  }

  #isFull(): boolean {
    return !this.#hasRoom || this.#ready.length > 0 || this.#waiting >= WAITING_MAX || this.#deferring >= WAITING_MAX;
  }

  #changed(): void {
    while (this.#ready.length > 0 && this.#hasRoom && this.#options.mayBegin()) this.#runNext(this.#ready.shift()!);
    this.#released.changed();
  }

  #queue(work: Work<Row>, key: string): void {
    const queue = this.#keys.get(key);
    if (!queue) {
      this.#keys.set(key, []);
      this.#run(work);
    } else {
      queue.push(work);
      this.#waiting++;
      this.#unfinished.set(work.id, work);
    }
  }

  #run(work: Work<Row>): void {
    let isRunning: true | undefined; // set when the handler has returned a promise
    isRunning = this.#start(work, (error) => {
      if (isRunning) this.#first--;
      if (isRunning && this.#unfinished.get(work.id) !== work) return; // cancelled
      if (error) {
        this.#defer(work, error);
        this.#deferQueue(work.key);
      } else this.#finish(work);
    });
    if (!isRunning) return;
    this.#first++;
    this.#unfinished.set(work.id, work);
  }

  #runNext(work: Work<Row>): void {
    this.#waiting--;
    this.#run(work);
  }

  /** All that waits behind a row that is kept, before what comes after it is kept, too. */
  #deferQueue(key: string | undefined): void {
    const queue = key === undefined ? undefined : this.#keys.get(key);
    if (!queue) return;
    this.#keys.delete(key!);
    this.#waiting -= queue.length;
    for (const work of queue.splice(0)) this.#defer(work, undefined);
  }

  #defer(work: Work<Row>, error: Error | undefined): void {
    this.#unfinished.set(work.id, work);
    this.#deferring++;
    this.#options.defer(work, error).then(() => {
      this.#deferring--;
      if (this.#unfinished.get(work.id) === work) this.#done(work);
      this.#changed();
    });
  }

  #done(work: Work<Row>): void {
    this.#unfinished.delete(work.id);
    this.#options.finished(work);
  }

  #finish(work: Work<Row>): void {
    this.#done(work);
    const { key } = work;
    const queue = key === undefined ? undefined : this.#keys.get(key);
    if (!queue) return;
    if (this.#options.isHeld(key!)) this.#deferQueue(key);
    const next = queue.shift();
    if (!next) this.#keys.delete(key!);
    else if (this.#hasRoom && this.#options.mayBegin()) this.#runNext(next);
    else this.#ready.push(next);
  }

  /** Calls the handler, and `done` when it is over: before this returns, with undefined, where it returns no promise. */
  #start(work: Work<Row>, done: (error: Error | undefined) => void): true | undefined {
    const { handler, epochOf, timeoutMs } = this.#options;
    const context = new Context(work, epochOf(work.lane));
    let result: unknown;
    let isPromise: boolean;
    try {
      result = handler(work.row, context);
      isPromise = isThenable(result);
    } catch (error) {
      done(toError(error));
      return undefined;
    }
    if (!isPromise) {
      done(undefined);
      return undefined;
    }
    this.#running.set(work, context);
    const end = (error: Error | undefined) => {
      clearTimeout(timer);
      if (!this.#running.delete(work)) return; // its time was over before
      done(error);
      this.#changed();
    };
    const timer = setTimeout(() => {
      context.abort();
      end(new HandlerTimeoutError(`the handler did not finish within ${timeoutMs} ms`));
    }, timeoutMs);
    Promise.resolve(result).then(
      () => end(undefined),
      (error) => end(toError(error)),
    );
    return true;
  }
}

/** Lets others wait for what may hold after each change. */
export class Condition {
  #next = Promise.withResolvers<void>();

  changed(): void {
    this.#next.resolve();
    this.#next = Promise.withResolvers();
  }

  async until(holds: () => boolean): Promise<void> {
    while (!holds()) await this.#next.promise;
  }
}

/** Makes its AbortSignal when a handler asks for it: most never do. */
class Context implements HandlerContext {
  readonly attempt: number;
  readonly lane: number;
  readonly epoch: number;
  #abort: AbortController | undefined;
  #aborted = false;

  constructor({ attempt, lane }: { attempt: number; lane: number }, epoch: number) {
    this.attempt = attempt;
    this.lane = lane;
    this.epoch = epoch;
  }

  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.#aborted) this.#abort.abort();
    return this.#abort.signal;
  }

  abort(): void {
    this.#aborted = true;
    this.#abort?.abort();
  }
}

/** Whatever was thrown, as an error whose message can be read. */
export function toError(error: unknown): Error {
  try {
    return error instanceof Error && typeof error.message === 'string' ? error : new Error(String(error));
  } catch {
    return new Error('something was thrown that has no text');
  }
}
