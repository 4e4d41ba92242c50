/** POST /ingest: publishes the signals of a request, and answers after their commit. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Problem } from '@pg-signals/runtime';
import { type GroupKey, isKey, type NewSignal, PublishError, type Publisher } from 'pg-signals';
import { createAccessCheck } from './access.ts';
import { type HeldBytes, RequestBytes } from './heldBytes.ts';
import { ingestLines } from './ingestLines.ts';
import { toIngestProblem } from './ingestProblem.ts';
import { parseJson } from './parseJson.ts';
import { readBody } from './readBody.ts';

export interface IngestOptions {
  publisher: Publisher;
  /** Longest body of JSON, and longest line of NDJSON, in bytes. */
  maxBody: number;
  /** Longest compressed stream of NDJSON, in bytes after decompression. */
  maxDecompressed: number;
  /** Signals of an array, and lines of NDJSON in one transaction. */
  maxBatch: number;
  /** What all requests hold together. */
  held: HeldBytes;
  /** How long a client may take to send a body of JSON, or pause in a stream of NDJSON, in ms. */
  receiveTimeoutMs: number;
  /** Each lets a request in; without any, all are let in. */
  tokens: readonly string[];
  /** Whether a request without a body inserts a random signal. */
  random: boolean;
  /** Aborts when the producer stops: what has not come whole by then, or soon after, is not waited for. */
  stopping: AbortSignal;
}

/** Answers a request, or rejects with the error to answer with. */
export type Ingest = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

const JSON_TYPE = 'application/json';
const LINES_TYPE = 'application/x-ndjson';

/** A plain handler, so that it works in front of express as well as inside. */
export function createIngest(options: IngestOptions): Ingest {
  const {
    publisher,
    maxBody,
    maxDecompressed,
    maxBatch,
    receiveTimeoutMs: timeoutMs,
    random,
    stopping,
    held,
  } = options;
  const checkAccess = createAccessCheck(options.tokens);

  return async (request, response) => {
    checkAccess(request);
    const type = mediaType(request);
    const key = idempotencyKey(request);
    const bytes = new RequestBytes(held);
    try {
      if (type === LINES_TYPE) {
        if (key !== undefined) throw new Problem(400, 'NDJSON has no Idempotency-Key: give each line its own "key".');
        const lines = { publisher, maxBatch, maxLine: maxBody, maxDecompressed, timeoutMs, stopping, bytes };
        return answer(response, await ingestLines(request, lines));
      }
      const body = await readBody(request, { maxBytes: maxBody, timeoutMs, stopping, bytes });
      const group = key === undefined ? undefined : { key, content: body };
      if (body === '' && !random) throw new Problem(422, 'The body is empty: expected a signal.');
      if (body === '') return answer(response, await publisher.publish(randomSignal(), group));
      if (type !== JSON_TYPE) throw wrongType(type);
      const value = parseJson(body);
      if (!Array.isArray(value)) return answer(response, await publisher.publish(checkKey(value, group), group));
      if (value.length > maxBatch) throw tooMany(value.length, maxBatch);
      const rows = await publisher.publishAll(
        value.map((signal) => checkKey(signal, group)),
        group,
      );
      answer(response, { accepted: rows.length, ids: rows.map(({ id }) => id) });
    } catch (error) {
      throw error instanceof PublishError ? toIngestProblem(error) : error;
    } finally {
      bytes.release();
    }
  };
}

function tooMany(signals: number, maxBatch: number): Problem {
  const limit = `${maxBatch} (INGEST_MAX_BATCH)`;
  return new Problem(413, `The array has ${signals} signals, more than ${limit}: send several, or NDJSON.`);
}

function answer(response: ServerResponse, result: unknown): void {
  const body = JSON.stringify(result);
  response.writeHead(200, ['Content-Type', JSON_TYPE, 'Content-Length', String(Buffer.byteLength(body))]);
  response.end(body);
}

function mediaType({ headers }: IncomingMessage): string | undefined {
  const type = headers['content-type'];
  return type === undefined || type === JSON_TYPE ? type : type.split(';', 1)[0]!.trim().toLowerCase();
}

function wrongType(type: string | undefined): Problem {
  return new Problem(415, `Content-Type is ${type ?? 'missing'}, but ${JSON_TYPE} was expected.`, {
    headers: { Accept: `${JSON_TYPE}, ${LINES_TYPE}` },
  });
}

function idempotencyKey({ headers }: IncomingMessage): string | undefined {
  const key = headers['idempotency-key'] as string | undefined;
  if (key === undefined || isKey(key)) return key;
  throw new Problem(400, 'Idempotency-Key: expected 1 to 255 visible ASCII characters.');
}

/** Rejects a key of the signal's own under a key of the request. The publisher checks everything else. */
function checkKey(signal: unknown, group: GroupKey | undefined): NewSignal {
  if (group && signal !== null && typeof signal === 'object' && 'key' in signal) {
    throw new Problem(
      400,
      'A signal has a "key" and the request an Idempotency-Key, but only one of them was expected.',
    );
  }
  return signal as NewSignal;
}

/** What `POST /ingest` inserts without a body. */
function randomSignal(): NewSignal {
  return { signal_name: 'test_signal', signal_value: Math.random() };
}
