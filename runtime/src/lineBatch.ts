/** Gathers the lines of one turn of the event loop into one write: a write for each line costs more than the line. */

/** Past this many characters the lines go out at once, so that a long turn holds little memory. */
const HIGH_WATER = 64 * 1024;

export class LineBatch {
  #lines = '';
  #scheduled = false;
  readonly #out: (lines: string) => void;

  constructor(out: (lines: string) => void = (lines) => process.stdout.write(lines)) {
    this.#out = out;
    process.once('exit', this.#flush);
  }

  /** Takes a line without its end. */
  add(line: string): void {
    this.#lines += `${line}\n`;
    if (this.#lines.length > HIGH_WATER) this.#flush();
    else if (!this.#scheduled) {
      this.#scheduled = true;
      setImmediate(this.#flush);
    }
  }

  #flush = () => {
    this.#scheduled = false;
    const lines = this.#lines;
    this.#lines = '';
    if (lines) this.#out(lines);
  };
}
