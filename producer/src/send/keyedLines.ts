/** Gives each line of a file its idempotency key, and gathers lines into requests. */
import { hash } from 'node:crypto';

/** Lines that go in one request. */
export interface Chunk {
  /** Number of the first line, from 1. */
  first: number;
  lines: number;
  text: string;
  /** Of the input, up to the end of this chunk. */
  bytes: number;
}

const MAX_CHARACTERS = 4 * 1024 * 1024;

/**
 * @param id what two runs over the same input have in common.
 * @param batch lines in one chunk, at the most.
 */
export async function* keyedChunks(
  input: AsyncIterable<string>,
  id: string,
  batch: number,
): AsyncGenerator<Chunk, void, void> {
  let number = 0;
  let bytes = 0;
  let first = 1;
  let text = '';
  for await (const line of input) {
    number++;
    bytes += Buffer.byteLength(line) + 1;
    text += `${withKey(line, `send-${hash('sha256', `${id}\n${number}\n${line}`)}`)}\n`;
    if (number - first + 1 < batch && text.length < MAX_CHARACTERS) continue;
    yield { first, lines: number - first + 1, text, bytes };
    first = number + 1;
    text = '';
  }
  if (number >= first) yield { first, lines: number - first + 1, text, bytes };
}

/**
 * Put first in the object, so that a key which the line has itself comes later and wins. A line that is no object is left
 * for the producer to refuse.
 */
export function withKey(line: string, key: string): string {
  const brace = /^\s*\{(?!\s*\})/.exec(line)?.[0];
  return brace === undefined ? line : `{"key":"${key}",${line.slice(brace.length)}`;
}
