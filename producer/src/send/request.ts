/** One request to a producer, sent again until it is answered for good. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff } from '@pg-signals/db';

export interface SendRequest {
  url: string;
  type: string;
  body: string;
  headers?: Record<string, string>;
  /** Told of each attempt that failed, before the wait for the next. */
  onRetry: (reason: string, delayMs: number) => void;
  signal?: AbortSignal;
}

export interface SendAnswer {
  status: number;
  // biome-ignore lint/suspicious/noExplicitAny: what a producer answers, read by its status
  body: any;
}

/**
 * Sends again where the producer can't be reached, or answers with 408, 429 or 5xx, for ever and with backoff: every
 * signal has its key, so that none goes in twice.
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
      const { cause, message } = error as Error;
      reason = (cause as Error | undefined)?.message || message;
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
