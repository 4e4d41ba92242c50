/** Publishes signals from a program, with group commit. The producer's HTTP service publishes through it too. */

import { setImmediate as nextTurn } from 'node:timers/promises';
import { NoAnswerError, type PublishedSignal, queryWithin } from '@pg-signals/db';
import type { Pool } from 'pg';
import { type Logger, silent } from '../logger.ts';
import { Batcher } from './batcher.ts';
import { inHalves } from './inHalves.ts';
import { insertSignals } from './insertSignals.ts';
import { checkSignal, type FieldError, type NewSignal } from './newSignal.ts';
import {
  isNotifyQueueFull,
  isRefusal,
  isSignalsOwn,
  PublishError,
  type PublishFailure,
  toPublishError,
} from './publishError.ts';
import { refusedRows } from './refusedRows.ts';
import { type GroupKey, rowBytes, type SignalRow, toRow } from './signalRow.ts';

export interface PublisherOptions {
  /** Signals in one transaction (1,000). A longer `publishAll` is still one transaction. */
  maxBatch?: number;
  /** Transactions at the same time (1), each on a connection of its own. */
  maxInFlight?: number;
  /** Signals that may wait for the database (10,000). Past that publishing fails at once, as `overloaded`. */
  maxQueue?: number;
  /** Bytes that may wait (64 MiB). */
  maxQueueBytes?: number;
  /**
   * How long signals may wait for their commit, in ms (10,000). Past that the call fails as `timeout`. To find which of
   * several were refused may take twice as long again.
   */
  timeoutMs?: number;
  /** Warns of each insert that the database did not answer. Silent by default. */
  logger?: Logger;
  observer?: Partial<PublisherObserver>;
}

/** Callbacks for logs and metrics. They run on the path of each signal: keep them short, and let them not throw. */
export interface PublisherObserver {
  /** A signal is valid and will be inserted. */
  publishing(signal: NewSignal): void;
  /** An insert of so many signals was committed; `waitedMs` holds the ms since the start of each call that it answers. */
  committed(signals: number, waitedMs: readonly number[]): void;
  /** Of these commits: rows that are new, and signals whose key was known, which have the row of the first time. */
  inserted(rows: number, repeated: number): void;
  /** So many signals of one call failed for this reason, `afterMs` since its start. */
  failed(failure: PublishFailure, signals: number, afterMs: number): void;
}

/**
 * Inserts signals, and answers each call after its commit. Calls at the same time share transactions.
 *
 * `publish` and `publishAll` reject with a `PublishError`. Where its `mayBeIn` is true the signal may still be committed, and with a
 * `key` it is safe to publish it again: the same key resolves with the same row, also when both calls run at once or in
 * different processes.
 */
export interface Publisher {
  /** Publishes one signal; resolves with its row. */
  publish(signal: NewSignal, group?: GroupKey): Promise<PublishedSignal>;
  /** Publishes all signals or none, in one transaction; resolves with their rows in the same order. */
  publishAll(signals: readonly NewSignal[], group?: GroupKey): Promise<PublishedSignal[]>;
  /**
   * Publishes many without returning their rows, all valid ones in one transaction. Resolves with an error for each signal
   * that failed and `undefined` for each that is committed.
   *
   * Signals are checked at once and inserted when `after` resolves, so that a caller can prepare one batch while the batch
   * before it is inserted. Where `after` rejects this rejects too, and inserts nothing. After an error that no signal is to
   * blame for (no answer, overload) nothing more is inserted.
   */
  publishEach(
    signals: readonly NewSignal[],
    options?: { after?: Promise<unknown> },
  ): Promise<(PublishError | undefined)[]>;
  /** Signals whose insert has not begun. */
  readonly waiting: number;
  /** Rejects calls from now on, and resolves when all earlier ones are answered. Does not end the pool. */
  close(): Promise<void>;
}

/** A larger batch is no faster, and the server holds several copies of it. */
const MAX_BATCH_BYTES = 4 * 1024 * 1024;

/** Errors that `publishAll` reports: with these its caller has enough to do, and a bad array costs little. */
const MAX_ERRORS = 100;

/** Signals that `publishAll` checks in one turn of the event loop: some 5 ms. */
const CHECKED_AT_ONCE = 1_000;

/**
 * Creates a publisher on a pool that the caller owns and ends. The database needs the tables of `npm run migrate`; it may
 * be unreachable now, and calls fail as `unavailable` until it is there.
 */
export function createPublisher(pool: Pool, options: PublisherOptions = {}): Publisher {
  const {
    maxBatch = 1_000,
    maxInFlight = 1,
    maxQueue = 10_000,
    timeoutMs = 10_000,
    logger = silent,
    observer = {},
  } = options;
  const batcher: Batcher<SignalRow, PublishedSignal | undefined> = new Batcher({
    maxBatch,
    maxBatchBytes: MAX_BATCH_BYTES,
    maxInFlight,
    maxQueue,
    maxQueueBytes: options.maxQueueBytes ?? 64 * 1024 * 1024,
    timeoutMs,
    isRefusal,
    insert: insertBatch,
    ...(observer.committed && { onCommit: observer.committed }),
  });
  let closed = false;
  /** Calls that have more to do after their insert; `close` waits for them as well as for the batcher. */
  const running = new Set<Promise<unknown>>();

  function run<T>(work: () => Promise<T>): Promise<T> {
    const done = work().finally(() => running.delete(done));
    running.add(done);
    return done;
  }

  async function insertBatch(rows: readonly SignalRow[]): Promise<(PublishedSignal | undefined)[]> {
    try {
      const inserted = await insertSignals(pool, rows, timeoutMs);
      observer.inserted?.(rows.length - inserted.repeated, inserted.repeated);
      return inserted.rows;
    } catch (error) {
      if (error instanceof NoAnswerError) {
        const fields = { signals: rows.length, reason: error.message };
        logger.warn('No answer to an insert, the next one takes another connection', fields);
      }
      if (isNotifyQueueFull(error)) await freeNotifyQueue();
      throw error;
    }
  }

  /** Asking for the usage drops what no listener needs any more, which the server does by itself only as NOTIFY goes on. */
  async function freeNotifyQueue(): Promise<void> {
    const query = { text: 'SELECT pg_notification_queue_usage()', rowMode: 'array' } as const;
    await queryWithin(pool, query, timeoutMs).catch(() => {}); // the next insert says whether it helped
  }

  async function insert(rows: readonly SignalRow[]): Promise<readonly (PublishedSignal | undefined)[]> {
    let bytes = 0;
    for (const row of rows) bytes += rowBytes(row);
    try {
      return await batcher.add(rows, bytes);
    } catch (error) {
      throw toPublishError(error);
    }
  }

  function requireOpen(): void {
    if (closed) throw closedError();
  }

  /** Reports a call whose signals all failed, and throws its error. */
  function fail(error: unknown, signals: number, startedAt: number): never {
    if (error instanceof PublishError) observer.failed?.(error.failure, signals, performance.now() - startedAt);
    throw error;
  }

  async function publish(signal: NewSignal, group?: GroupKey): Promise<PublishedSignal> {
    const startedAt = performance.now();
    try {
      requireOpen();
      const row = toRow(valid(signal), { group });
      observer.publishing?.(signal);
      const [inserted] = await insert([row]);
      return inserted!;
    } catch (error) {
      return fail(error, 1, startedAt);
    }
  }

  async function publishAll(signals: readonly NewSignal[], group?: GroupKey): Promise<PublishedSignal[]> {
    const startedAt = performance.now();
    try {
      requireOpen();
      await checkAll(signals);
      if (signals.length === 0) return [];
      const rows = signals.map((signal, index) => toRow(signal, { group, part: index }));
      for (const signal of signals) observer.publishing?.(signal);
      return (await insertAll(rows)) as PublishedSignal[];
    } catch (error) {
      return fail(error, signals.length, startedAt);
    }
  }

  /** Inserts all rows or none; where some are refused, the error says which. */
  async function insertAll(rows: readonly SignalRow[]): Promise<readonly (PublishedSignal | undefined)[]> {
    try {
      return await insert(rows);
    } catch (error) {
      if (!(error instanceof PublishError) || error.failure !== 'refused' || rows.length === 1) throw error;
      const refused = await refusedRows(pool, rows, timeoutMs).catch(() => []);
      const errors = refused.slice(0, MAX_ERRORS);
      throw new PublishError('refused', error.message, { errors, cause: error.cause });
    }
  }

  async function publishEach(
    signals: readonly NewSignal[],
    { after }: { after?: Promise<unknown> } = {},
  ): Promise<(PublishError | undefined)[]> {
    const startedAt = performance.now();
    if (closed) return report(signals.map(closedError), startedAt);
    const outcomes: (PublishError | undefined)[] = new Array(signals.length).fill(undefined);
    const rows: SignalRow[] = [];
    const places: number[] = [];
    signals.forEach((signal, index) => {
      const checked = checkSignal(signal);
      if ('errors' in checked) {
        outcomes[index] = invalid(checked.errors);
      } else {
        rows.push(toRow(checked.signal, { wanted: false }));
        places.push(index);
        observer.publishing?.(checked.signal);
      }
    });
    await after;
    const errors = rows.length > 0 ? await insertEach(rows) : [];
    places.forEach((place, index) => {
      outcomes[place] = errors[index];
    });
    return report(outcomes, startedAt);
  }

  /** Reports the failures among the outcomes, together where they have one reason. */
  function report(outcomes: (PublishError | undefined)[], startedAt: number): (PublishError | undefined)[] {
    const failures = new Map<PublishFailure, number>();
    for (const error of outcomes) {
      if (error) failures.set(error.failure, (failures.get(error.failure) ?? 0) + 1);
    }
    for (const [failure, signals] of failures) observer.failed?.(failure, signals, performance.now() - startedAt);
    return outcomes;
  }

  /** The error of each row that failed. After an error that no row is to blame for, nothing more is inserted. */
  async function insertEach(rows: readonly SignalRow[]): Promise<(PublishError | undefined)[]> {
    const errors: (PublishError | undefined)[] = new Array(rows.length);
    let fatal: PublishError | undefined;
    await inHalves(rows, {
      insert: (part) => (fatal ? Promise.reject(notSent(fatal)) : insert(part)),
      isRefusal: (error) => isSignalsOwn(error as PublishError),
      failed(part, caught, first) {
        const error = caught as PublishError;
        errors.fill(error, first, first + part.length);
        if (!isSignalsOwn(error)) fatal ??= error;
      },
    });
    return errors;
  }

  return {
    get waiting() {
      return batcher.waiting;
    },
    publish,
    publishAll: (signals, group) => run(() => publishAll(signals, group)),
    publishEach: (signals, options) => run(() => publishEach(signals, options)),
    async close() {
      closed = true;
      await Promise.allSettled(running);
      await batcher.idle();
    },
  };
}

/**
 * Lets the process do other work in between: a large array takes long.
 *
 * @throws {PublishError} with the first hundred or so errors.
 */
async function checkAll(signals: readonly NewSignal[]): Promise<void> {
  const errors: FieldError[] = [];
  for (let index = 0; index < signals.length && errors.length < MAX_ERRORS; index++) {
    if (index % CHECKED_AT_ONCE === CHECKED_AT_ONCE - 1) await nextTurn();
    const checked = checkSignal(signals[index], `/${index}`);
    if ('errors' in checked) errors.push(...checked.errors);
  }
  if (errors.length > 0) throw invalid(errors.slice(0, MAX_ERRORS));
}

function valid(signal: NewSignal): NewSignal {
  const checked = checkSignal(signal);
  if ('errors' in checked) throw invalid(checked.errors);
  return checked.signal;
}

function invalid(errors: readonly FieldError[]): PublishError {
  const { pointer, detail } = errors[0]!;
  return new PublishError('invalid', pointer ? `${pointer}: ${detail}` : detail, { errors });
}

const closedError = () => new PublishError('unavailable', 'the publisher is closed');

const notSent = ({ failure, message, cause }: PublishError) =>
  new PublishError(failure, `not sent, because an earlier one failed: ${message}`, { cause });
