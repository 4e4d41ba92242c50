/** Joins the lines of one turn of the event loop into one write: a write costs more than making a line. */

/** Characters at which the lines are written at once, so that a long turn holds little memory. */
const HIGH_WATER = 64 * 1024;

/** The batches that hold lines; they are written when the process exits. */
const unwritten = new Set<LineBatch>();
process.once('exit', () => {
  for (const batch of unwritten) batch.flush();
});

export class LineBatch {
  #lines = '';
  readonly #out: (lines: string) => void;

  constructor(out: (lines: string) => void = (lines) => process.stdout.write(lines)) {
    this.#out = out;
  }

  /** Takes a line without its end. */
  add(line: string): void {
    this.#lines += `${line}\n`;
    if (this.#lines.length > HIGH_WATER) {
      this.flush();
    } else if (!unwritten.has(this)) {
      unwritten.add(this);
      setImmediate(this.flush);
    }
  }

  flush = (): void => {
    unwritten.delete(this);
    const lines = this.#lines;
    this.#lines = '';
    if (lines) this.#out(lines);
  };
}
