/** Splits a stream of bytes into lines, in bounded memory. */
import { isUtf8 } from 'node:buffer';
import { GrowingBuffer } from './growingBuffer.ts';
import { withoutMark } from './readBody.ts';

/** A line with its number, from 1; or why it can't be read. */
export type Line = { number: number; text: string } | { number: number; wrong: string };

const NEWLINE = 0x0a;

export class LineSplitter {
  readonly #maxBytes: number;
  readonly #tooLong: string;
  /** The start of a line whose end has not come yet. */
  readonly #rest = new GrowingBuffer();
  #number = 0;
  /** Inside a line that is too long, whose other bytes are dropped. */
  #skipping = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
    this.#tooLong = `longer than ${maxBytes} bytes (INGEST_MAX_BODY)`;
  }

  /** Bytes kept of a line that has not ended. */
  get waiting(): number {
    return this.#rest.length;
  }

  /** The lines that end in this chunk. Empty ones are left out, but numbered. */
  push(chunk: Buffer): Line[] {
    const lines: Line[] = [];
    let from = 0;
    if (this.#rest.length > 0 || this.#skipping) {
      const to = chunk.indexOf(NEWLINE);
      if (to >= 0) this.#finish(chunk.subarray(0, to), lines);
      from = to + 1;
    }
    const end = chunk.lastIndexOf(NEWLINE) + 1;
    if (from < end) this.#split(chunk.subarray(from, end), lines);
    this.#keep(chunk.subarray(Math.max(from, end)));
    return lines;
  }

  /** The last line, where no newline ends it. */
  end(): Line[] {
    const lines: Line[] = [];
    if (this.#rest.length > 0 || this.#skipping) this.#finish(Buffer.alloc(0), lines);
    return lines;
  }

  /** Takes whole lines. Decoding them together costs a third, but needs all of them to be UTF-8. */
  #split(whole: Buffer, lines: Line[]): void {
    if (isUtf8(whole)) {
      const texts = whole.toString().split('\n');
      texts.pop(); // what follows the last newline
      for (const text of texts) this.#take(text, lines);
      return;
    }
    for (let from = 0, to: number; from < whole.length; from = to + 1) {
      to = whole.indexOf(NEWLINE, from);
      this.#finish(whole.subarray(from, to), lines);
    }
  }

  #take(decoded: string, lines: Line[]): void {
    const number = ++this.#number;
    const text = number === 1 ? withoutMark(decoded) : decoded;
    // A character of a string is one to three bytes.
    const tooLong = text.length * 3 > this.#maxBytes && Buffer.byteLength(text) > this.#maxBytes;
    if (tooLong) lines.push({ number, wrong: this.#tooLong });
    else if (text.trim() !== '') lines.push({ number, text });
  }

  #keep(part: Buffer): void {
    if (this.#skipping || part.length === 0) return;
    this.#rest.append(part);
    if (this.#rest.length <= this.#maxBytes) return;
    this.#skipping = true;
    this.#rest.take();
  }

  /** Takes the end of a line whose start may have been kept. */
  #finish(part: Buffer, lines: Line[]): void {
    this.#rest.append(part);
    const bytes = this.#rest.take();
    const skipped = this.#skipping;
    this.#skipping = false;
    if (!skipped && isUtf8(bytes)) {
      this.#take(bytes.toString(), lines);
    } else {
      const tooLong = skipped || bytes.length > this.#maxBytes;
      lines.push({ number: ++this.#number, wrong: tooLong ? this.#tooLong : 'not UTF-8' });
    }
  }
}
