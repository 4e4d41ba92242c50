/** The answer to a request that can't be served: application/problem+json, RFC 9457. */
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from 'node:http';

export interface ProblemOptions {
  /** More members of the problem document, `errors` for instance. */
  members?: Record<string, unknown>;
  headers?: Record<string, string>;
  cause?: unknown;
}

/** An error whose message is meant for the client. Any other error is a bare 500 outside and whole in the log. */
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

/** Turns any error into a `Problem`; one that is not meant for the client becomes a bare 500. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  // Express throws errors with a status; those below 500 say what the client did wrong, such as a malformed path.
  const status = (error as { status?: unknown } | null)?.status;
  if (typeof status === 'number' && status >= 400 && status < 500) return new Problem(status, (error as Error).message);
  return new Problem(500, 'The service failed on this request; its log says why.', { cause: error });
}

/** Answers with the problem; a response that has begun is broken off instead. */
export function sendProblem(request: IncomingMessage, response: ServerResponse, problem: Problem): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  const body = documentOf(problem);
  // The unread rest of a body would be parsed as the next request: close the connection after the answer.
  const isUnread = hasBody(request) && !request.complete;
  response.writeHead(problem.status, {
    'Content-Type': 'application/problem+json',
    'Content-Length': Buffer.byteLength(body),
    ...(isUnread && { Connection: 'close' }),
    ...problem.headers,
  });
  if (request.method !== 'HEAD') response.write(body);
  if (isUnread) discardRest(request, () => response.end());
  else response.end();
}

/**
 * Reads what the client is still sending, for a second at most. A connection that is closed with bytes unread is reset, and
 * a client that is sending may then never see the answer.
 */
function discardRest(request: IncomingMessage, done: () => void): void {
  const timer = setTimeout(done, 1_000);
  request.once('close', () => clearTimeout(timer)).once('end', done);
  request.unpipe().resume();
}

/** The whole answer as text, for a request that could not be parsed: its connection ends with it. */
export function rawProblem(problem: Problem): string {
  const body = documentOf(problem);
  return [
    `HTTP/1.1 ${problem.status} ${STATUS_CODES[problem.status]}`,
    'Content-Type: application/problem+json',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

function documentOf({ status, message, members }: Problem): string {
  return JSON.stringify({ title: STATUS_CODES[status] ?? 'Error', status, detail: message, ...members });
}

/** True for a request with a body: one without has neither of these headers. */
export function hasBody({ headers }: IncomingMessage): boolean {
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}
