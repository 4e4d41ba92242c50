/** Decompresses a request body: `Content-Encoding: gzip` or `deflate`. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createGunzip, createInflate } from 'node:zlib';
import { Problem } from '@pg-signals/runtime';

const DECOMPRESSORS = { gzip: createGunzip, 'x-gzip': createGunzip, deflate: createInflate };

/**
 * Returns the decompressed body, or the request itself where it is not compressed. The reader limits the length: a thousand
 * bytes can decompress to a million. `bodyProblem` explains an error of the stream.
 *
 * @throws {Problem} 415 for another encoding.
 */
export function decompress(request: IncomingMessage): Readable {
  const encoding = request.headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (encoding === 'identity') return request;
  if (!Object.hasOwn(DECOMPRESSORS, encoding)) {
    throw new Problem(415, `Content-Encoding is ${encoding}, but gzip or deflate was expected.`, {
      headers: { 'Accept-Encoding': 'gzip, deflate' },
    });
  }
  const decompressor = DECOMPRESSORS[encoding as keyof typeof DECOMPRESSORS]();
  // Not `pipeline`: it destroys the request together with the decompressor, and then no answer can be sent.
  request.pipe(decompressor);
  request.once('close', () => {
    if (!request.complete) decompressor.destroy(bodyProblem());
  });
  const body = decompressor as Readable;
  return body.on('error', () => request.unpipe(decompressor));
}

/** The answer to a body that ended in an error, or before its end. */
export function bodyProblem(cause?: Error): Problem {
  if (cause instanceof Problem) return cause;
  const { code } = (cause ?? {}) as { code?: string };
  const detail = code?.startsWith('Z_')
    ? 'The body is not compressed as Content-Encoding says, or is cut short.'
    : 'The body broke off before its end.';
  return new Problem(400, detail, { cause });
}
