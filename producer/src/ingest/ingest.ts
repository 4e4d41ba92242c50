/** POST /ingest: a request in, committed rows out. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Problem } from '@pg-signals/runtime';
import { type GroupKey, isKey, type NewSignal, PublishError, type Publisher } from 'pg-signals';
import { ingestLines } from './ingestLines.ts';
import { toIngestProblem } from './ingestProblem.ts';
import { parseJson } from './parseJson.ts';
import { readBody } from './readBody.ts';

export interface IngestOptions {
  publisher: Publisher;
  /** Longest body of JSON, and longest line of NDJSON, in bytes. */
  maxBody: number;
  /** What a packed stream of NDJSON may unpack to, in bytes. */
  maxUnpacked: number;
  /** Lines of NDJSON in one transaction. */
  maxBatch: number;
  /** How long a client may take to send a body of JSON, or be silent in a stream of NDJSON, in ms. */
  receiveTimeoutMs: number;
}

/** Rejects with what went wrong. */
export type Ingest = (request: IncomingMessage, response: ServerResponse) => Promise<void>;

const JSON_TYPE = 'application/json';
const LINES_TYPE = 'application/x-ndjson';

/** A plain handler, so that it can stand in front of express as well as inside it. */
export function createIngest(options: IngestOptions): Ingest {
  const { publisher, maxBody, maxUnpacked, maxBatch, receiveTimeoutMs: timeoutMs } = options;

  return async (request, response) => {
    const type = mediaType(request);
    const key = idempotencyKey(request);
    if (type === LINES_TYPE) {
      if (key !== undefined)
        throw new Problem(400, 'In NDJSON each line has its own "key"; Idempotency-Key has no place.');
      const lines = { publisher, maxBatch, maxLine: maxBody, maxUnpacked, timeoutMs };
      return answer(response, await ingestLines(request, lines));
    }
    const body = await readBody(request, { maxBytes: maxBody, timeoutMs });
    const group = key === undefined ? undefined : { key, content: body };
    try {
      if (body === '') return answer(response, await publisher.publish(randomSignal(), group));
      if (type !== JSON_TYPE) throw wrongType(type);
      const value = parseJson(body);
      if (!Array.isArray(value)) return answer(response, await publisher.publish(own(value, group), group));
      const rows = await publisher.publishAll(
        value.map((signal) => own(signal, group)),
        group,
      );
      answer(response, { accepted: rows.length, ids: rows.map(({ id }) => id) });
    } catch (error) {
      throw error instanceof PublishError ? toIngestProblem(error) : error;
    }
  };
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

/** A signal under the key of its request has none of its own. What it is else is checked where it is published. */
function own(signal: unknown, group: GroupKey | undefined): NewSignal {
  if (group && signal !== null && typeof signal === 'object' && 'key' in signal) {
    throw new Problem(400, 'A signal has a "key" and the request an Idempotency-Key: expected one of the two.');
  }
  return signal as NewSignal;
}

/** What `POST /ingest` inserts where no body comes. */
function randomSignal(): NewSignal {
  return { signal_name: 'test_signal', signal_value: Math.random() };
}
