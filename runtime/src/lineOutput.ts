/** Where log lines go: those of one turn of the event loop in one write, and a bound on those that no one reads. */

/** What the lines are written to: standard output, or another stream. */
export interface Output {
  write(text: string, written: (error?: Error | null) => void): unknown;
  /** 0 while everything written was taken: a file always does, a pipe until its reader stops reading. */
  readonly writableLength: number;
}

/** Characters that wait, from which on there is no room; reached within a turn, they are written at once. */
const HIGH_WATER = 64 * 1024;
/** Characters that wait, from which on lines are dropped: a burst of long lines passes, a log that no one reads does not. */
const MAX_WAITING = 8 * 1024 * 1024;

/** The outputs for which lines wait; they are written when the process exits. */
const unwritten = new Set<LineOutput>();
process.once('exit', () => {
  for (const output of unwritten) output.write();
});

export class LineOutput {
  readonly #output: Output;
  readonly #onDropped: (lines: number) => void;
  #waiting = '';
  /** Lines taken so far, and of them those that were written or lost: in the same order. */
  #added = 0;
  #settled = 0;
  #dropped = 0;
  /** Of the dropped lines, those that `onDropped` has been called with. */
  #reported = 0;
  #progress = Promise.withResolvers<void>();

  /** @param onDropped is called once there is room again, with the number of lines dropped meanwhile. */
  constructor(output: Output, onDropped: (lines: number) => void = () => {}) {
    this.#output = output;
    this.#onDropped = onDropped;
  }

  /** Lines dropped so far: there was no room left for them, or writing them failed. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Characters not written yet. */
  get waiting(): number {
    return this.#waiting.length + this.#output.writableLength;
  }

  /** Takes a line without its end. Never waits: the line is dropped where too many wait. */
  add(line: string): void {
    if (this.#waiting.length >= MAX_WAITING) {
      this.#dropped++;
      return;
    }
    this.#added++;
    this.#waiting += `${line}\n`;
    if (this.#waiting.length >= HIGH_WATER) {
      this.#flush();
    } else if (!unwritten.has(this)) {
      unwritten.add(this);
      setImmediate(this.#flush);
    }
  }

  /** Resolves when there is room; undefined where there is. Whoever waits for it after each line loses none. */
  room(): Promise<void> | undefined {
    return this.#until(() => this.#waiting.length < HIGH_WATER);
  }

  /**
   * Resolves when the operating system has every line that was added before, except those that were lost; undefined where that
   * is so. Lines that are added later don't hold it up.
   */
  written(): Promise<void> | undefined {
    this.#flush();
    const lines = this.#added;
    return this.#until(() => this.#settled >= lines || this.waiting === 0);
  }

  /** Hands the lines that wait to the output, whether it takes them or not. */
  write(): void {
    unwritten.delete(this);
    const text = this.#waiting;
    const lines = this.#added;
    this.#waiting = '';
    if (text) this.#output.write(text, (error) => this.#taken(lines, error));
  }

  /** Writes where the output takes all: what waits here is bounded, what waits in a stream is not. */
  #flush = (): void => {
    if (this.#output.writableLength === 0) this.write();
  };

  /** @param lines of all that were added, those up to here. */
  #taken(lines: number, error?: Error | null): void {
    if (error) this.#dropped += lines - this.#settled;
    this.#settled = lines;
    this.#flush();
    const unreported = this.#dropped - this.#reported;
    // Not after an error: this line would fail too, and be counted, and reported.
    if (!error && unreported > 0 && !this.room()) {
      this.#reported = this.#dropped;
      this.#onDropped(unreported);
    }
    this.#progress.resolve();
    this.#progress = Promise.withResolvers();
  }

  #until(holds: () => boolean): Promise<void> | undefined {
    if (holds()) return undefined;
    return this.#progress.promise.then(() => this.#until(holds));
  }
}
