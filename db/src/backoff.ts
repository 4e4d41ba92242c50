/** The delay before the next attempt. */

export interface BackoffOptions {
  /** Upper bound of the first delay, in ms (100). */
  firstMs?: number;
  /** Upper bound of every delay, in ms (30,000). */
  longestMs?: number;
  /** A number in [0, 1); for tests. */
  random?: () => number;
}

/**
 * Exponential backoff with full jitter: attempt n (from 1) waits a random time between 0 and
 * min(longestMs, firstMs * 2^(n-1)), so that clients that lost the same server don't all return at once.
 *
 * Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 *
 * @returns ms, a whole number.
 */
export function backoff(attempt: number, options: BackoffOptions = {}): number {
  const { firstMs = 100, longestMs = 30_000, random = Math.random } = options;
  const bound = Math.min(longestMs, firstMs * 2 ** (attempt - 1));
  return Math.floor(random() * bound);
}
