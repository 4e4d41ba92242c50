/** Reads the body of a request as text. */
import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { hasBody, Problem } from '@pg-signals/runtime';
import { bodyProblem, decompress } from './decompress.ts';
import { GrowingBuffer } from './growingBuffer.ts';

export interface BodyLimits {
  /** Longest body, in bytes, packed and unpacked. */
  maxBytes: number;
  /** How long the client may take to send it, in ms. */
  timeoutMs: number;
}

/**
 * By events and not by iterating: this runs once for each request, and the iterator costs as much as the rest of it.
 *
 * @throws {Problem} 413 past `maxBytes`, as soon as that is known; 408 past `timeoutMs`; 400 for what is not UTF-8, is
 *   not packed as its header says, or breaks off; 415 for a packing that we don't know.
 */
export function readBody(request: IncomingMessage, limits: BodyLimits): Promise<string> {
  if (!hasBody(request)) return Promise.resolve('');
  return new Promise((resolve, reject) => {
    if (Number(request.headers['content-length']) > limits.maxBytes) throw tooLarge(limits.maxBytes);
    const body = decompress(request);
    const received = new GrowingBuffer();
    let timer: NodeJS.Timeout | undefined;
    // Most bodies come in one packet with their headers and are whole by then: they need no timer.
    process.nextTick(() => {
      if (!request.complete) timer = setTimeout(() => fail(tooSlow(limits.timeoutMs)), limits.timeoutMs);
    });
    const fail = (error: Error) => {
      clearTimeout(timer);
      body.off('data', onData);
      body.pause();
      reject(error);
    };
    const onData = (chunk: Buffer) => {
      if (received.length + chunk.length > limits.maxBytes) fail(tooLarge(limits.maxBytes));
      else received.append(chunk);
    };
    body.on('data', onData);
    body.on('end', () => {
      clearTimeout(timer);
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

export function tooLarge(maxBytes: number): Problem {
  return new Problem(413, `The body is longer than ${maxBytes} bytes (INGEST_MAX_BODY).`);
}

export function tooSlow(timeoutMs: number): Problem {
  return new Problem(408, `The body did not come within ${timeoutMs} ms (INGEST_RECEIVE_TIMEOUT_MS).`);
}

/** A file of another system may begin with a byte order mark, which JSON doesn't know. */
export const withoutMark = (text: string) => (text.charCodeAt(0) === 0xfeff ? text.slice(1) : text);
