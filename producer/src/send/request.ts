/** Sends a request to a producer, again until it has a final answer. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, messageOf } from '@pg-signals/db';

export interface SendRequest {
  url: string;
  type: string;
  body: string | Buffer<ArrayBuffer>;
  headers?: Record<string, string>;
  /** How often it is sent at most (as often as it takes). */
  attempts?: number;
  /** Called after each failed attempt but the last, with its reason and the time until the next one. */
  onRetry: (reason: string, delayMs: number) => void;
  signal?: AbortSignal;
}

export interface SendAnswer {
  status: number;
  // biome-ignore lint/suspicious/noExplicitAny: the producer's answer; the status says what it holds
  body: any;
}

/** Every attempt failed. The signals may be in all the same. */
export class GaveUpError extends Error {
  override name = 'GaveUpError';
}

/**
 * Tries again, with backoff, where the producer can't be reached or answers 408, 429 or 5xx. Every signal needs a key, so
 * that none is inserted twice.
 *
 * @throws {GaveUpError} after the last attempt.
 * @throws when `signal` aborts.
 */
export async function sendUntilAnswered(request: SendRequest): Promise<SendAnswer> {
  for (let attempt = 1; ; attempt++) {
    let reason: string;
    let delay = backoff(attempt, { longestMs: 10_000 });
    try {
      const response = await fetch(request.url, {
        method: 'POST',
        headers: { 'Content-Type': request.type, ...request.headers },
        body: request.body,
        ...(request.signal && { signal: request.signal }),
      });
      const text = await response.text();
      if (response.status < 500 && response.status !== 408 && response.status !== 429) {
        return { status: response.status, body: readJson(text) };
      }
      reason = readJson(text)?.detail ?? `status ${response.status}`;
      delay = Math.max(delay, Number(response.headers.get('retry-after') ?? 0) * 1_000);
    } catch (error) {
      if (request.signal?.aborted) throw error;
      reason = messageOf((error as Error).cause ?? error); // the message of fetch itself is always "fetch failed"
    }
    if (attempt === request.attempts) {
      throw new GaveUpError(`gave up after ${attempt} ${attempt === 1 ? 'attempt' : 'attempts'}: ${reason}`);
    }
    request.onRetry(reason, delay);
    await sleep(delay, undefined, { signal: request.signal });
  }
}

function readJson(text: string) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
