/** What a client of ours is told when a request can't be served: application/problem+json, RFC 9457. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';

export interface ProblemOptions {
  /** More members of the problem document, `errors` for instance. */
  members?: Record<string, unknown>;
  headers?: Record<string, string>;
  cause?: unknown;
}

/** An error whose message is meant for the client. Whatever else is thrown is "internal" outside and whole in the log. */
export class Problem extends Error {
  override name = 'Problem';
  readonly status: number;
  readonly members: Record<string, unknown>;
  readonly headers: Record<string, string>;

  constructor(status: number, detail: string, { members = {}, headers = {}, cause }: ProblemOptions = {}) {
    super(detail, { cause });
    this.status = status;
    this.members = members;
    this.headers = headers;
  }
}

/** Makes a `Problem` of whatever was thrown; what is not meant for the client becomes a bare 500. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  // Express and its parts throw errors with a status; those below 500 say what the client did (a malformed path, say).
  const status = (error as { status?: unknown } | null)?.status;
  if (typeof status === 'number' && status >= 400 && status < 500) return new Problem(status, (error as Error).message);
  return new Problem(500, 'The service failed on this request; its log says why.', { cause: error });
}

/** Answers with the problem; does nothing to a response that has begun, beyond ending it. */
export function sendProblem(request: IncomingMessage, response: ServerResponse, problem: Problem): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const title = STATUS_CODES[problem.status] ?? 'Error';
  const body = JSON.stringify({ title, status: problem.status, detail: problem.message, ...problem.members });
  // What is left of a body that we won't read would be taken for the next request: the connection goes with the answer.
  const close = hasBody(request) && !request.complete ? { Connection: 'close' } : {};
  response.writeHead(problem.status, {
    'Content-Type': 'application/problem+json',
    'Content-Length': Buffer.byteLength(body),
    ...close,
    ...problem.headers,
  });
  response.end(request.method === 'HEAD' ? undefined : body);
}

/** True for a request that comes with a body: one without has neither of these headers. */
export function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}
