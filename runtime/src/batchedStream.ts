/** Gathers the lines of one turn of the event loop into one write: a write for each line costs more than the line. */
import { Writable } from 'node:stream';

/** Past this many characters the lines go out at once, so that a long turn holds little memory. */
const HIGH_WATER = 64 * 1024;

export class BatchedStream extends Writable {
  #lines = '';
  #scheduled = false;
  readonly #out: (lines: string) => void;

  /** Writes to standard output unless told where, and then also what is held when the process exits. */
  constructor(out?: (lines: string) => void) {
    super({ decodeStrings: false });
    this.#out = out ?? ((lines) => process.stdout.write(lines));
    if (!out) process.once('exit', this.#flush);
  }

  override _write(line: string, _encoding: string, done: () => void): void {
    this.#lines += line;
    if (this.#lines.length > HIGH_WATER) this.#flush();
    else if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(this.#flush);
    }
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#flush();
    process.off('exit', this.#flush);
    done(error);
  }

  #flush = () => {
    this.#scheduled = false;
    const lines = this.#lines;
    this.#lines = '';
    if (lines) this.#out(lines);
  };
}
