/** Takes the packing off a body: `Content-Encoding: gzip` or `deflate`. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createGunzip, createInflate } from 'node:zlib';
import { Problem } from '@pg-signals/runtime';

const UNPACK = { gzip: createGunzip, 'x-gzip': createGunzip, deflate: createInflate };

/**
 * The body as it was before it was packed, or the request itself where it is not. How much comes out is for the reader to
 * limit: a thousand bytes can unpack to a million. `bodyProblem` says what an error of the stream means.
 *
 * @throws {Problem} 415 for another packing.
 */
export function decompress(request: IncomingMessage): Readable {
  const encoding = request.headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (encoding === 'identity') return request;
  if (!Object.hasOwn(UNPACK, encoding)) {
    throw new Problem(415, `Content-Encoding is ${encoding}, but gzip or deflate was expected.`, {
      headers: { 'Accept-Encoding': 'gzip, deflate' },
    });
  }
  const unpacking = UNPACK[encoding as keyof typeof UNPACK]();
  // Not `pipeline`: it destroys the request with the unpacking, and with it the answer that says what was wrong.
  request.pipe(unpacking);
  request.once('close', () => {
    if (!request.complete) unpacking.destroy(bodyProblem());
  });
  const body = unpacking as Readable;
  return body.on('error', () => request.unpipe(unpacking));
}

/** What the client is told of a body that did not come to its end. */
export function bodyProblem(cause?: Error): Problem {
  if (cause instanceof Problem) return cause;
  const { code } = (cause ?? {}) as { code?: string };
  const detail = code?.startsWith('Z_')
    ? 'The body is not packed as Content-Encoding says, or not whole.'
    : 'The body broke off before its end.';
  return new Problem(400, detail, { cause });
}
