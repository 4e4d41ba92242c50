/** POST /ingest with application/x-ndjson: publishes a stream of signals, each batch of lines in one transaction. */
import type { IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Problem } from '@pg-signals/runtime';
import { isSignalsOwn, type NewSignal, type Publisher } from 'pg-signals';
import { bodyProblem, decompress } from './decompress.ts';
import type { RequestBytes } from './heldBytes.ts';
import { toIngestProblem } from './ingestProblem.ts';
import { type Line, LineSplitter } from './lines.ts';
import { parseExactly } from './parseJson.ts';
import { stoppingProblem } from './readBody.ts';

export interface LinesOptions {
  publisher: Pick<Publisher, 'publishEach'>;
  /** Lines in one transaction. */
  maxBatch: number;
  /** Longest line, in bytes. */
  maxLine: number;
  /** Longest compressed body, in bytes after decompression. */
  maxDecompressed: number;
  /** How long the client may pause, in ms. */
  timeoutMs: number;
  /** Aborts when the producer stops: the report is then sent at once. */
  stopping: AbortSignal;
  /** Holds the lines until they are inserted. */
  bytes: RequestBytes;
}

/** What became of the lines. Empty lines are not counted; `errors` holds the first hundred that failed. */
export interface LinesReport {
  accepted: number;
  refused: number;
  errors: { line: number; detail: string }[];
}

const MAX_ERRORS = 100;
/** A batch of long lines is sent when its text is this long. */
const MAX_BATCH_CHARACTERS = 4 * 1024 * 1024;
/** When a client pauses this long in ms, as one with live signals does, its lines so far are inserted. */
const PAUSE_MS = 100;

/**
 * Reads to the end of the body and resolves with the counts. While one batch is inserted only the next one is read, so a
 * slow database slows the client down. Committed lines stay, whatever comes after.
 *
 * @throws {Problem} with the report among its members, and in `next_line` the first line that the report does not cover.
 */
export async function ingestLines(request: IncomingMessage, options: LinesOptions): Promise<LinesReport> {
  const report: LinesReport = { accepted: 0, refused: 0, errors: [] };
  const splitter = new LineSplitter(options.maxLine);
  const compressed = request.headers['content-encoding'] !== undefined;
  const reject = (line: number, detail: string) => {
    report.refused++;
    if (report.errors.length < MAX_ERRORS) report.errors.push({ line, detail });
  };
  let batch: ReadLine[] = [];
  let characters = 0;
  let nextLine = 1;
  let publishing = Promise.resolve();
  /** Of the bytes held, those of lines that are being published. */
  let waiting = 0;

  async function publish(lines: readonly ReadLine[], after: Promise<void>): Promise<void> {
    const values = lines.flatMap((line) => ('value' in line ? [line.value as NewSignal] : []));
    const outcomes = (await options.publisher.publishEach(values, { after })).values();
    for (const line of lines) {
      nextLine = line.number;
      if ('wrong' in line) {
        reject(line.number, line.wrong);
        continue;
      }
      const error = outcomes.next().value;
      if (!error) report.accepted++;
      else if (isSignalsOwn(error)) reject(line.number, error.message);
      else throw toIngestProblem(error);
    }
    nextLine++;
  }

  /** Starts the batch, which is inserted after the one before it, and waits until that one is done. */
  async function flush(): Promise<void> {
    const [lines, before] = [batch, publishing];
    batch = [];
    characters = 0;
    const size = options.bytes.bytes - waiting - splitter.waiting;
    if (lines.length > 0) {
      waiting += size;
      publishing = publish(lines, before).finally(() => {
        waiting -= size;
        options.bytes.release(size);
      });
      publishing.catch(() => {}); // the next await of it rejects
    } else {
      options.bytes.release(size); // empty lines
    }
    await before;
    await nextTurn(); // the insert is sent at the end of this turn; reading on now would delay it
  }

  async function take(lines: Line[]): Promise<void> {
    for (const line of lines) {
      batch.push('text' in line ? parseLine(line) : line);
      if ('text' in line) characters += line.text.length;
      if (batch.length >= options.maxBatch || characters >= MAX_BATCH_CHARACTERS) await flush();
    }
  }

  let bytes = 0;
  const body = decompress(request);
  const chunks = chunksOf(body, options);
  try {
    for await (const chunk of chunks) {
      if (chunk === PAUSE) {
        await flush();
        continue;
      }
      bytes += chunk.length;
      if (compressed && bytes > options.maxDecompressed) {
        const limit = `${options.maxDecompressed} bytes (INGEST_MAX_DECOMPRESSED)`;
        throw new Problem(413, `The body decompresses to more than ${limit}.`);
      }
      if (!options.bytes.hold(chunk.length)) {
        await flush();
        await publishing;
        if (!options.bytes.hold(chunk.length)) throw options.bytes.refuse();
      }
      await take(splitter.push(chunk));
    }
    await take(splitter.end());
    await flush();
    await publishing;
  } catch (error) {
    await publishing.catch(() => {});
    const problem = error instanceof Problem ? error : bodyProblem(error as Error);
    throw new Problem(problem.status, problem.message, {
      headers: problem.headers,
      members: { ...problem.members, ...report, next_line: nextLine },
      cause: problem.cause,
    });
  }
  if (report.accepted === 0) {
    const detail = report.refused === 0 ? 'The body holds no signal.' : 'No line could be inserted.';
    throw new Problem(422, detail, { members: { ...report } });
  }
  return report;
}

type ReadLine = { number: number; value: unknown } | { number: number; wrong: string };

function parseLine({ number, text }: { number: number; text: string }): ReadLine {
  try {
    return { number, value: parseExactly(text) };
  } catch (error) {
    return { number, wrong: `not JSON: ${(error as Error).message}` };
  }
}

const PAUSE = Symbol('pause');

/** The chunks of a body, with a `PAUSE` where none came for PAUSE_MS. Stopping early does not destroy the stream. */
async function* chunksOf(
  body: Readable,
  { timeoutMs, stopping }: Pick<LinesOptions, 'timeoutMs' | 'stopping'>,
): AsyncGenerator<Buffer | typeof PAUSE> {
  const iterator = body.iterator({ destroyOnReturn: false }) as AsyncIterator<Buffer>;
  let wake = () => {};
  const onStop = () => wake();

  /** The next chunk; `PAUSE` after so many ms, and at a stop. */
  async function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof PAUSE> {
    if (stopping.aborted) throw stoppingProblem();
    const pause = Promise.withResolvers<typeof PAUSE>();
    wake = () => pause.resolve(PAUSE);
    const timer = setTimeout(wake, ms);
    try {
      return await Promise.race([promise, pause.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  stopping.addEventListener('abort', onStop);
  try {
    for (;;) {
      const next = iterator.next();
      let chunk = await within(next, PAUSE_MS);
      if (chunk === PAUSE) {
        yield PAUSE;
        chunk = await within(next, timeoutMs);
      }
      if (chunk === PAUSE) {
        if (stopping.aborted) throw stoppingProblem();
        throw new Problem(408, `The body paused for ${timeoutMs} ms (INGEST_RECEIVE_TIMEOUT_MS).`);
      }
      if (chunk.done) return;
      yield chunk.value;
    }
  } finally {
    stopping.removeEventListener('abort', onStop);
  }
}
