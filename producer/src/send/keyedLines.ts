/** Gives each line of a file its own idempotency key, and groups lines into requests. */
import { hash } from 'node:crypto';

/** The lines of one request. */
export interface Chunk {
  /** Number of the first line, from 1. */
  first: number;
  lines: number;
  /** In latin1, as the lines are. */
  text: string;
  /** Bytes of the input up to the end of this chunk. */
  bytes: number;
}

/** A chunk of long lines ends when its text has so many bytes. */
const MAX_BYTES = 4 * 1024 * 1024;

/**
 * The lines of the input in chunks. A line's key depends on `id`, its number and its text, so a second run sends the same
 * keys, and equal lines have different ones.
 *
 * @param input lines in latin1, where each character is a byte (`readLines`).
 * @param id the same in each run over the same input.
 * @param batch most lines in one chunk.
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
    bytes += line.length + 1;
    text += `${withKey(line, `send-${hash('sha256', `${id}\n${number}\n${line}`)}`)}\n`;
    if (number - first + 1 < batch && text.length < MAX_BYTES) continue;
    yield { first, lines: number - first + 1, text, bytes };
    first = number + 1;
    text = '';
  }
  if (number >= first) yield { first, lines: number - first + 1, text, bytes };
}

/**
 * Puts the key first in the object, so that a key of the line's own comes later and wins. Leaves a line that is no object
 * as it is: the producer rejects it.
 */
export function withKey(line: string, key: string): string {
  const brace = /^[ \t\r]*\{(?![ \t\r]*\})/.exec(line)?.[0];
  return brace === undefined ? line : `{"key":"${key}",${line.slice(brace.length)}`;
}
