/** Why a signal is not published, in terms that a caller can act on. */

import { ConnectTimeoutError, NoAnswerError, QueryTimeoutError } from '@pg-signals/db';
import { OverloadedError, TimedOutError } from './batcher.ts';
import { KEY_CONFLICT } from './insertSignals.ts';
import type { FieldError } from './newSignal.ts';

/**
 * - `invalid`: a field is wrong; `errors` says which. Nothing was sent.
 * - `refused`: the database takes no such row.
 * - `key-conflict`: the idempotency key stands for something else already.
 * - `overloaded`: too much waits already. Try again later.
 * - `timeout`: no answer from the database in time.
 * - `unavailable`: the database is not to be reached, or refuses work.
 */
export type PublishFailure = 'invalid' | 'refused' | 'key-conflict' | 'overloaded' | 'timeout' | 'unavailable';

interface PublishErrorOptions {
  mayBeIn?: boolean;
  errors?: readonly FieldError[];
  cause?: unknown;
}

/** A signal that was not published, or of which nobody knows. */
export class PublishError extends Error {
  override name = 'PublishError';
  readonly failure: PublishFailure;
  /**
   * True where the signal may have gone in all the same: its insert had begun, and no answer came. With an idempotency
   * key it is safe to publish it again.
   */
  readonly mayBeIn: boolean;
  /** What is wrong, for `invalid`; which of several, for `refused`. */
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

/** True for what the database says of a row, and not of itself; the classes are those of PostgreSQL's appendix A. */
export function isRefusal(error: unknown): boolean {
  const { code = '' } = error as { code?: string };
  // 22: a value that its type can't hold; 23: a constraint; 54: nested or written larger than a limit; P0001: RAISE in
  // somebody's trigger.
  return /^(22|23|54)|^P0001$/.test(code) || code === KEY_CONFLICT;
}

/** Says what became of a signal whose insert rejected with `error`. */
export function toPublishError(error: unknown): PublishError {
  if (error instanceof PublishError) return error;
  const { message } = error as Error;
  const { code } = error as { code?: string };
  const cause = error;
  if (error instanceof OverloadedError) return new PublishError('overloaded', message, { cause });
  if (error instanceof TimedOutError) return new PublishError('timeout', message, { mayBeIn: error.sent, cause });
  if (error instanceof ConnectTimeoutError) return new PublishError('timeout', message, { cause });
  if (error instanceof QueryTimeoutError) return new PublishError('timeout', message, { mayBeIn: true, cause });
  if (code === KEY_CONFLICT) return new PublishError('key-conflict', message, { cause });
  if (isRefusal(error)) return new PublishError('refused', message, { cause });
  return new PublishError('unavailable', message, { mayBeIn: error instanceof NoAnswerError, cause });
}
