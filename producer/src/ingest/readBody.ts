/** Reads the body of a request as text. */
import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { hasBody, Problem } from '@pg-signals/runtime';
import { bodyProblem, decompress } from './decompress.ts';
import { GrowingBuffer } from './growingBuffer.ts';
import type { RequestBytes } from './heldBytes.ts';

export interface BodyLimits {
  /** Longest body, in bytes, before and after decompression. */
  maxBytes: number;
  /** How long the client may take to send the body, in ms. */
  timeoutMs: number;
  /** Aborts when the producer stops; from then on the client has a second left. */
  stopping: AbortSignal;
  /** Holds the body until the request is answered. */
  bytes: RequestBytes;
}

const STOPPING_MS = 1_000;

/**
 * With events instead of an iterator, which would double the cost of this: it runs for each request.
 *
 * @throws {Problem} 413 past `maxBytes`, as soon as that is known; 408 past `timeoutMs`; 400 for a body that is not UTF-8,
 *   is not compressed as its header says, or breaks off; 415 for an unknown Content-Encoding; 503 at a stop
 *   and where all requests together hold too much.
 */
export function readBody(request: IncomingMessage, limits: BodyLimits): Promise<string> {
  if (!hasBody(request)) return Promise.resolve('');
  return new Promise((resolve, reject) => {
    if (Number(request.headers['content-length']) > limits.maxBytes) throw tooLarge(limits.maxBytes);
    const body = decompress(request);
    const received = new GrowingBuffer();
    let timer: NodeJS.Timeout | undefined;
    // Most bodies come in one packet with their headers, are complete by the next tick, and need no timer.
    process.nextTick(() => {
      if (request.complete) return;
      timer = setTimeout(() => fail(tooSlow(limits.timeoutMs)), limits.timeoutMs);
      if (limits.stopping.aborted) onStop();
      else limits.stopping.addEventListener('abort', onStop);
    });
    const onStop = () => {
      clearTimeout(timer);
      timer = setTimeout(() => fail(stoppingProblem()), STOPPING_MS);
    };
    const stopWaiting = () => {
      if (!timer) return;
      clearTimeout(timer);
      limits.stopping.removeEventListener('abort', onStop);
    };
    const fail = (error: Error) => {
      stopWaiting();
      body.off('data', onData);
      body.pause();
      reject(error);
    };
    const onData = (chunk: Buffer) => {
      if (received.length + chunk.length > limits.maxBytes) fail(tooLarge(limits.maxBytes));
      else if (!limits.bytes.hold(chunk.length)) fail(limits.bytes.refuse());
      else received.append(chunk);
    };
    body.on('data', onData);
    body.on('end', () => {
      stopWaiting();
      const bytes = received.take();
      if (isUtf8(bytes)) resolve(withoutMark(bytes.toString()));
      else reject(new Problem(400, 'The body is not UTF-8.'));
    });
    body.on('error', (error) => fail(bodyProblem(error)));
    body.on('close', () => {
      if (!body.readableEnded) fail(bodyProblem());
    });
  });
}

function tooLarge(maxBytes: number): Problem {
  return new Problem(413, `The body is longer than ${maxBytes} bytes (INGEST_MAX_BODY).`);
}

function tooSlow(timeoutMs: number): Problem {
  return new Problem(408, `The body did not come within ${timeoutMs} ms (INGEST_RECEIVE_TIMEOUT_MS).`);
}

/** The answer to a request that a stopping producer does not wait for. */
export function stoppingProblem(): Problem {
  return new Problem(503, 'The producer is stopping: send it again.', {
    members: { may_be_in: false },
    headers: { 'Retry-After': '1' },
  });
}

/** Files of some systems begin with a byte order mark, which is no JSON. */
export const withoutMark = (text: string) => (text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
