/** POST /ingest: a request in, a committed row out. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Signal } from '@pg-signals/db';
import { Problem } from '@pg-signals/runtime';
import { readBody } from './readBody.ts';
import { checkSignal, type NewSignal, parseJson, randomSignal } from './signalInput.ts';

export interface IngestOptions {
  /** Resolves with the row after its commit. */
  insert: (signal: NewSignal) => Promise<Signal>;
  /** Longest body in bytes. */
  maxBody: number;
}

/** A plain handler, so that it can stand in front of express as well as inside it. Rejects with what went wrong. */
export function createIngest({ insert, maxBody }: IngestOptions) {
  return async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const signal = await readSignal(request, maxBody);
    const row = await insert(signal).catch(toIngestProblem);
    const body = JSON.stringify(row);
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body) });
    response.end(body);
  };
}

async function readSignal(request: IncomingMessage, maxBody: number): Promise<NewSignal> {
  const type = request.headers['content-type']?.split(';')[0]?.trim().toLowerCase();
  const body = await readBody(request, maxBody);
  if (body.length === 0) return randomSignal();
  if (type !== 'application/json') {
    throw new Problem(415, `Content-Type is ${type ?? 'missing'}, but application/json was expected.`, {
      headers: { Accept: 'application/json' },
    });
  }
  const checked = checkSignal(parseJson(body));
  if ('signal' in checked) return checked.signal;
  const [first] = checked.errors;
  throw new Problem(422, `${first!.pointer || 'The body'}: ${first!.detail}.`, { members: { errors: checked.errors } });
}

/** What the client is told of an insert that failed. The classes are those of SQLSTATE, appendix A of PostgreSQL's manual. */
function toIngestProblem(error: unknown): never {
  const { code = '', message } = error as { code?: string; message: string };
  // 22: a value that its type can't hold; 23514: a CHECK of the table; 54: nested or written larger than a limit.
  if (code.startsWith('22') || code === '23514' || code.startsWith('54')) {
    throw new Problem(422, `The database refuses this signal: ${message}.`, { cause: error });
  }
  throw new Problem(
    500,
    'The signal could not be inserted: the database is not to be reached or refuses work. Try again.',
    {
      cause: error,
    },
  );
}
