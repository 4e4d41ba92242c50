/** Why a signal was not published, in terms that a caller can act on. */
import { ConnectTimeoutError, NoAnswerError, QueryTimeoutError } from '@pg-signals/db';
import { OverloadedError, TimedOutError } from './batcher.ts';
import { KEY_CONFLICT } from './insertSignals.ts';
import { type FieldError, shorten } from './newSignal.ts';

/**
 * - `invalid`: a field is wrong; `errors` says which. Nothing was sent.
 * - `refused`: the database refuses the row: a constraint, a trigger, a value out of range.
 * - `key-conflict`: the idempotency key already stands for something else.
 * - `overloaded`: the queue is full. Nothing was sent; try again later.
 * - `timeout`: no answer within `timeoutMs`.
 * - `notify-queue-full`: the server has no room for notifications. Nothing was inserted; try again later.
 * - `no-free-id`: the sequence of ids was set back or is at its end. Nothing was inserted.
 * - `unavailable`: the database can't be reached or can't work now, or the publisher is closed.
 */
export type PublishFailure =
  | 'invalid'
  | 'refused'
  | 'key-conflict'
  | 'overloaded'
  | 'timeout'
  | 'notify-queue-full'
  | 'no-free-id'
  | 'unavailable';

interface PublishErrorOptions {
  mayBeIn?: boolean;
  errors?: readonly FieldError[];
  cause?: unknown;
}

/** A signal was not published, or its fate is unknown: see `mayBeIn`. */
export class PublishError extends Error {
  override name = 'PublishError';
  readonly failure: PublishFailure;
  /**
   * True where the insert was sent and no answer came: the signal may be committed, now or later. With an idempotency key
   * it is safe to publish it again.
   */
  readonly mayBeIn: boolean;
  /** The wrong fields where `invalid`; the rows of a `publishAll` that the database refuses where `refused`. */
  readonly errors: readonly FieldError[];

  constructor(failure: PublishFailure, message: string, options: PublishErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.failure = failure;
    this.mayBeIn = options.mayBeIn ?? false;
    this.errors = options.errors ?? [];
  }
}

/** True where the signal itself is to blame, so that others may be published. */
export function isSignalsOwn({ failure }: PublishError): boolean {
  return failure === 'invalid' || failure === 'refused' || failure === 'key-conflict';
}

/** True where the database refuses a row, and not the work as such. The classes are those of PostgreSQL's appendix A. */
export function isRefusal(error: unknown): boolean {
  const { code = '' } = error as { code?: string };
  // 22: a value that its type can't hold; 23: a constraint; 54: larger or more deeply nested than a limit; P0001: RAISE in
  // a trigger.
  if (/^(22|23|54)|^P0001$/.test(code)) return !isNotifyQueueFull(error) && !isNoFreeId(error);
  return code === KEY_CONFLICT;
}

/** True where the server's queue of notifications is full. Its SQLSTATE is that of many limits, some of them of a row. */
export function isNotifyQueueFull(error: unknown): boolean {
  const { code, file } = error as { code?: string; file?: string };
  return code === '54000' && file === 'async.c';
}

/** True where the sequence gave an id that the table has already, or gives none any more. */
function isNoFreeId(error: unknown): boolean {
  const { code, constraint } = error as { code?: string; constraint?: string };
  return (code === '23505' && constraint === 'signals_pkey') || code === '2200H';
}

/** Turns what an insert rejected with into what became of its signals. */
export function toPublishError(error: unknown): PublishError {
  if (error instanceof PublishError) return error;
  const message = shorten((error as Error).message, 300); // the database repeats a value
  const { code } = error as { code?: string };
  const cause = error;
  if (error instanceof OverloadedError) return new PublishError('overloaded', message, { cause });
  if (error instanceof TimedOutError) return new PublishError('timeout', message, { mayBeIn: error.sent, cause });
  if (error instanceof ConnectTimeoutError) return new PublishError('timeout', message, { cause });
  if (error instanceof QueryTimeoutError) return new PublishError('timeout', message, { mayBeIn: true, cause });
  if (code === KEY_CONFLICT) return new PublishError('key-conflict', message, { cause });
  if (isNotifyQueueFull(error)) return new PublishError('notify-queue-full', message, { cause });
  if (isNoFreeId(error)) return new PublishError('no-free-id', message, { cause });
  if (isRefusal(error)) return new PublishError('refused', message, { cause });
  return new PublishError('unavailable', message, { mayBeIn: error instanceof NoAnswerError, cause });
}
