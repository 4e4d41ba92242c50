/** Publishes signals from a program: group commit, without HTTP. The HTTP service itself publishes through it. */
import { NoAnswerError, type PublishedSignal } from '@pg-signals/db';
import type { Pool } from 'pg';
import { type Logger, silent } from '../logger.ts';
import { Batcher } from './batcher.ts';
import { insertSignals } from './insertSignals.ts';
import { checkSignal, type FieldError, type NewSignal } from './newSignal.ts';
import { isRefusal, isSignalsOwn, PublishError, toPublishError } from './publishError.ts';
import { refusedRows } from './refusedRows.ts';
import { type GroupKey, rowBytes, type SignalRow, toRow } from './signalRow.ts';

export interface PublisherOptions {
  /** Signals in one transaction (1,000). */
  maxBatch?: number;
  /** Transactions at the same time (1). */
  maxInFlight?: number;
  /** Signals that may wait; past it publishing fails at once (10,000). */
  maxQueue?: number;
  /** The same in bytes (64 MiB). */
  maxQueueBytes?: number;
  /** How long publishing may take, in ms (10,000). */
  timeoutMs?: number;
  /** Silent unless given. Reports inserts that the database did not answer. */
  logger?: Logger;
  observer?: Partial<PublisherObserver>;
}

/** Is called with what a publisher does; for logs and metrics. */
export interface PublisherObserver {
  /** A signal was checked, and its insert comes next. */
  publishing(signal: NewSignal): void;
  /** An insert was committed: its signals, and for each call that it answers how many ms that took. */
  committed(signals: number, waitedMs: readonly number[]): void;
}

/**
 * Every method resolves after the commit, and rejects with a `PublishError`, which says whether the signal may have gone
 * in all the same. The same `key` again resolves with the same row, also when both run at once, here and elsewhere.
 */
export interface Publisher {
  publish(signal: NewSignal, group?: GroupKey): Promise<PublishedSignal>;
  /** In one transaction: all or nothing. The rows come in the order given. */
  publishAll(signals: readonly NewSignal[], group?: GroupKey): Promise<PublishedSignal[]>;
  /**
   * For many, whose rows nobody asks for: in one transaction, but for those that fail for their own sake. Resolves with
   * what went wrong for each, `undefined` where it is in.
   *
   * Checks and logs the signals at once, and inserts them when `after` has resolved, so that one call can make ready what
   * goes in after another. Rejects only as `after` does, and inserts nothing then. After an error that is not a signal's
   * own (no answer, overload) none of those after it is inserted.
   */
  publishEach(
    signals: readonly NewSignal[],
    options?: { after?: Promise<unknown> },
  ): Promise<(PublishError | undefined)[]>;
  /** Signals that wait for their insert to begin. */
  readonly waiting: number;
  /** Takes no more, and resolves when all that was taken is answered. The pool stays the caller's. */
  close(): Promise<void>;
}

/** Above this a batch gains nothing, and the server holds it several times over. */
const MAX_BATCH_BYTES = 4 * 1024 * 1024;

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
  /** What `close` waits for beside the batcher: calls that have something left to do when their insert is answered. */
  const running = new Set<Promise<unknown>>();

  function run<T>(work: () => Promise<T>): Promise<T> {
    const done = work().finally(() => running.delete(done));
    running.add(done);
    return done;
  }

  async function insertBatch(rows: readonly SignalRow[]): Promise<(PublishedSignal | undefined)[]> {
    try {
      return await insertSignals(pool, rows, timeoutMs);
    } catch (error) {
      if (error instanceof NoAnswerError) {
        const fields = { signals: rows.length, reason: error.message };
        logger.warn('Insert was not answered, the next one takes another connection', fields);
      }
      throw error;
    }
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

  async function publish(signal: NewSignal, group?: GroupKey): Promise<PublishedSignal> {
    requireOpen();
    const row = toRow(valid(signal), { group });
    observer.publishing?.(signal);
    const [inserted] = await insert([row]);
    return inserted!;
  }

  async function publishAll(signals: readonly NewSignal[], group?: GroupKey): Promise<PublishedSignal[]> {
    requireOpen();
    const errors = signals.flatMap((signal, index) => {
      const checked = checkSignal(signal, `/${index}`);
      return 'errors' in checked ? checked.errors : [];
    });
    if (errors.length > 0) throw invalid(errors);
    if (signals.length === 0) return [];
    const rows = signals.map((signal, index) => toRow(signal, { group, part: index }));
    for (const signal of signals) observer.publishing?.(signal);
    try {
      return (await insert(rows)) as PublishedSignal[];
    } catch (error) {
      if (!(error instanceof PublishError) || error.failure !== 'refused' || rows.length === 1) throw error;
      const refused = await refusedRows(pool, rows, timeoutMs).catch(() => []);
      throw new PublishError('refused', error.message, { errors: refused, cause: error.cause });
    }
  }

  async function publishEach(
    signals: readonly NewSignal[],
    { after }: { after?: Promise<unknown> } = {},
  ): Promise<(PublishError | undefined)[]> {
    if (closed) return signals.map(closedError);
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
    const errors = await insertEach(rows);
    places.forEach((place, index) => {
      outcomes[place] = errors[index];
    });
    return outcomes;
  }

  /** The error of each row, as far as there are errors. After one that is no row's own, nothing more is inserted. */
  async function insertEach(rows: readonly SignalRow[]): Promise<(PublishError | undefined)[]> {
    if (rows.length === 0) return [];
    try {
      await insert(rows);
      return [];
    } catch (caught) {
      const error = caught as PublishError;
      if (rows.length === 1 || !isSignalsOwn(error)) return rows.map(() => error);
      const [first, second] = [rows.slice(0, rows.length >> 1), rows.slice(rows.length >> 1)];
      const errors = await insertEach(first);
      const fatal = errors.find((each) => each && !isSignalsOwn(each));
      return [
        ...first.map((_, index) => errors[index]),
        ...(fatal ? second.map(() => notSent(fatal)) : await insertEach(second)),
      ];
    }
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
  new PublishError(failure, `not sent, since another before it failed: ${message}`, { cause });
