/**
 * What a member's handler does, in a file: a message to the checker would be lost with the process, what was written to a file
 * is there after SIGKILL.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { now } from '../clock.ts';

/** One run of a row by a handler. */
export interface Run {
  readonly id: number;
  readonly lane: number;
  readonly epoch: number;
  readonly attempt: number;
  /** On the clock of `now()`. */
  readonly begunAt: number;
  /** Undefined while it runs, and where its process ended before. */
  endedAt: number | undefined;
  failed: boolean;
}

const KINDS = ['begun', 'done', 'failed', 'left'] as const;
type Kind = (typeof KINDS)[number];

/** Kind, id, lane, epoch, attempt, time. */
const FIELDS = 6;
const RECORD_BYTES = FIELDS * 8;

/** Writes the log of one process. */
export class RunLogWriter {
  readonly #file: number;
  readonly #record = new Float64Array(FIELDS);

  constructor(path: string) {
    this.#file = openSync(path, 'a');
  }

  /** `left` is about the epoch alone. */
  write(kind: Kind, id: number, lane: number, epoch: number, attempt: number): void {
    this.#record.set([KINDS.indexOf(kind), id, lane, epoch, attempt, now()]);
    writeSync(this.#file, this.#record);
  }
}

/** Reads the log of one process while that writes it. */
export class RunLogReader {
  readonly runs: Run[] = [];
  /** The epochs that this process left in order. */
  readonly left: number[] = [];
  readonly #path: string;
  /** By id: there is one run of a row at a time in a process. */
  readonly #open = new Map<number, Run>();
  #offset = 0;

  constructor(path: string) {
    this.#path = path;
    closeSync(openSync(path, 'a'));
  }

  /** Reads what was written since the last call. */
  read(): void {
    const file = openSync(this.#path, 'r');
    const chunk = new Float64Array(FIELDS * 10_000);
    for (;;) {
      const bytes = readSync(file, chunk, 0, chunk.byteLength, this.#offset);
      const records = Math.floor(bytes / RECORD_BYTES);
      this.#offset += records * RECORD_BYTES;
      for (let i = 0; i < records; i++) this.#add(chunk.subarray(i * FIELDS, (i + 1) * FIELDS));
      if (records === 0) break;
    }
    closeSync(file);
  }

  #add([kind = 0, id = 0, lane = 0, epoch = 0, attempt = 0, at = 0]: Float64Array): void {
    if (KINDS[kind] === 'left') this.left.push(epoch);
    else if (KINDS[kind] === 'begun') {
      const run: Run = { id, lane, epoch, attempt, begunAt: at, endedAt: undefined, failed: false };
      this.runs.push(run);
      this.#open.set(id, run);
    } else {
      const run = this.#open.get(id)!;
      run.endedAt = at;
      run.failed = KINDS[kind] === 'failed';
    }
  }
}
