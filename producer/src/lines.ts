/** Cuts a stream of bytes into lines, in bounded memory. */
import { isUtf8 } from 'node:buffer';

/** A line with its number, from 1; or, for one that can't be read, why. */
export type Line = { number: number; text: string } | { number: number; wrong: string };

const NEWLINE = 0x0a;

export class LineSplitter {
  readonly #maxBytes: number;
  #rest: Buffer[] = [];
  #restBytes = 0;
  #number = 0;
  /** Inside a line that is too long: the rest of it is thrown away. */
  #skipping = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that end in this chunk, but for the empty ones, which count. */
  push(chunk: Buffer): Line[] {
    const lines: Line[] = [];
    let from = 0;
    for (let to = chunk.indexOf(NEWLINE); to >= 0; to = chunk.indexOf(NEWLINE, from)) {
      this.#finish(chunk.subarray(from, to), lines);
      from = to + 1;
    }
    this.#keep(chunk.subarray(from));
    return lines;
  }

  /** The last line, where no newline ends it. */
  end(): Line[] {
    const lines: Line[] = [];
    if (this.#restBytes > 0 || this.#skipping) this.#finish(Buffer.alloc(0), lines);
    return lines;
  }

  #keep(part: Buffer): void {
    if (this.#skipping || part.length === 0) return;
    this.#rest.push(part);
    this.#restBytes += part.length;
    if (this.#restBytes <= this.#maxBytes) return;
    this.#skipping = true;
    this.#rest = [];
    this.#restBytes = 0;
  }

  #finish(part: Buffer, lines: Line[]): void {
    this.#number++;
    const bytes = this.#restBytes > 0 ? Buffer.concat([...this.#rest, part]) : part;
    const tooLong = this.#skipping || bytes.length > this.#maxBytes;
    this.#rest = [];
    this.#restBytes = 0;
    this.#skipping = false;
    const number = this.#number;
    if (tooLong) lines.push({ number, wrong: `longer than ${this.#maxBytes} bytes (INGEST_MAX_BODY)` });
    else if (!isUtf8(bytes)) lines.push({ number, wrong: 'not UTF-8' });
    else {
      const text = bytes.toString();
      if (text.trim() !== '') lines.push({ number, text });
    }
  }
}
