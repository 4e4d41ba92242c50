/** Reads the body of a request as text. */
import type { IncomingMessage } from 'node:http';
import { Problem } from '@pg-signals/runtime';

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * @throws {Problem} 413 past `maxBytes`, as soon as that is known; 400 for what is not UTF-8 or breaks off.
 */
export async function readBody(request: IncomingMessage, maxBytes: number): Promise<string> {
  if (Number(request.headers['content-length']) > maxBytes) throw tooLarge(maxBytes);
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    for await (const chunk of request.iterator({ destroyOnReturn: false })) {
      length += chunk.length;
      if (length > maxBytes) throw tooLarge(maxBytes);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof Problem) throw error;
    throw new Problem(400, 'The body broke off before its end.', { cause: error });
  }
  try {
    return utf8.decode(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks, length));
  } catch (cause) {
    throw new Problem(400, 'The body is not UTF-8.', { cause });
  }
}

function tooLarge(maxBytes: number): Problem {
  return new Problem(413, `The body is longer than ${maxBytes} bytes (INGEST_MAX_BODY).`);
}
