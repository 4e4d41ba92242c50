/** Reads the lines of a file, byte for byte, and recognises what is no text. */

/** A line that is longer is more than any producer takes, and no line of a file of signals. */
const MAX_LINE_BYTES = 64 * 1024 * 1024;

/** How files begin that hold no lines of UTF-8. */
const OTHER_FORMATS: readonly (readonly [magic: string, name: string])[] = [
  ['\x1f\x8b', 'compressed (gzip)'],
  ['\x28\xb5\x2f\xfd', 'compressed (zstd)'],
  ['BZh', 'compressed (bzip2)'],
  ['\xfd7zXZ', 'compressed (xz)'],
  ['PK\x03\x04', 'compressed (zip)'],
  ['\xff\xfe', 'UTF-16'],
  ['\xfe\xff', 'UTF-16'],
];
const UTF8_MARK = '\xef\xbb\xbf';

/** The input holds no lines to send. The message says why. */
export class InputError extends Error {
  override name = 'InputError';
}

/**
 * The lines of a stream without their ends: a newline, or a carriage return and a newline. Nothing else ends a line, as in
 * NDJSON: `U+2028` may stand in a JSON string as it is.
 *
 * @param input in latin1, where each character is a byte: so every byte stays what it was, also in what is not UTF-8.
 * @throws {InputError} whose message continues the name of the input: what it is instead of lines, or that one is too long.
 */
export async function* readLines(input: AsyncIterable<string>): AsyncGenerator<string, void, void> {
  /** The start of a line whose end has not come yet, in parts: joined each time, a long line would be copied again and again. */
  let parts: string[] = [];
  let bytes = 0;
  let first = true;
  for await (let chunk of input) {
    if (first) {
      first = false;
      const other = OTHER_FORMATS.find(([magic]) => chunk.startsWith(magic));
      if (other) throw new InputError(`is ${other[1]}: expected lines of JSON in UTF-8`);
      if (chunk.startsWith(UTF8_MARK)) chunk = chunk.slice(UTF8_MARK.length);
    }
    const lines = chunk.split('\n');
    const rest = lines.pop()!;
    if (lines.length > 0) {
      lines[0] = parts.join('') + lines[0];
      parts = [];
      bytes = 0;
      for (const line of lines) yield withoutReturn(line);
    }
    parts.push(rest);
    bytes += rest.length;
    if (bytes > MAX_LINE_BYTES)
      throw new InputError(`has a line of more than ${MAX_LINE_BYTES} bytes: expected lines of JSON`);
  }
  if (bytes > 0) yield withoutReturn(parts.join(''));
}

const withoutReturn = (line: string) => (line.endsWith('\r') ? line.slice(0, -1) : line);
