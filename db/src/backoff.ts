/** How long to wait before the next attempt. */

export interface BackoffOptions {
  /** Upper bound of the first delay, in ms. */
  firstMs?: number;
  /** Upper bound of every delay, in ms. */
  longestMs?: number;
  /** A number in [0, 1); for tests. */
  random?: () => number;
}

/**
 * Exponential backoff with full jitter: attempt n (from 1) waits a random time between 0 and
 * min(longest, first * 2^(n-1)), so that clients which lost the same server don't return all at once.
 * By default 100 ms, 200 ms, 400 ms, … 30 s.
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
