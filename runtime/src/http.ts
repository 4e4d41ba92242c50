/** The HTTP side of a service: its routes, one place where errors are answered, and a server that stops in order. */
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import { Connections } from './connections.ts';
import { httpUrl } from './httpUrl.ts';
import type { Logger } from './logger.ts';
import { hasBody, Problem, sendProblem, toProblem } from './problem.ts';

/** Resolves when the service can work now; rejects with an error whose message tells anyone why it can't, and its cause the log. */
export type ReadyCheck = () => Promise<void>;

/** Written out by `/metrics`; a prom-client registry is one. */
export interface Metrics {
  readonly contentType: string;
  metrics(): Promise<string>;
}

export interface AppOptions {
  /** What `GET /` says first: the service's name and what to try, in plain text. */
  about: string;
  logger: Logger;
  metrics: Metrics;
  ready: ReadyCheck;
  /** The service's own routes, by path and method in lower case. */
  routes?: Routes;
  /** False where health and metrics have a port of their own (true). */
  health?: boolean;
}

type Routes = Record<string, Partial<Record<'get' | 'post', RequestHandler>>>;

const STANDARD_ROUTES = `
GET /healthz   200 while the process runs
GET /readyz    200 when it can do its work, otherwise 503 and the reason
GET /metrics   figures in the format of Prometheus
`;

/**
 * An express application with `GET /` (text for people: where to go), `GET /healthz` (the process runs), `GET /readyz` (200
 * when it can work now, otherwise 503 with the reason), `GET /metrics` and `routes`. Every error is answered as problem+json.
 */
export function createApp({ about, logger, metrics, ready, routes = {}, health = true }: AppOptions): Express {
  const app = express().disable('x-powered-by').disable('etag').set('query parser', 'simple');
  let shown: Promise<string> | undefined;
  const healthRoutes: Routes = {
    '/healthz': { get: (_request, response) => void response.json({ status: 'ok' }) },
    '/readyz': { get: readiness(ready, logger) },
    '/metrics': {
      get: async (_request, response) => {
        // One for all that ask while it is written, so that many requests take no more memory than one.
        shown ??= metrics.metrics().finally(() => {
          shown = undefined;
        });
        response.type(metrics.contentType).send(await shown);
      },
    },
  };
  const text = health ? about + STANDARD_ROUTES : `${about}\n`;
  const all: Routes = {
    '/': { get: (_request, response) => void response.type('text').send(text) },
    ...routes,
    ...(health && healthRoutes),
  };
  for (const [path, methods] of Object.entries(all)) {
    if (methods.get) app.get(path, leaveBody, methods.get);
    if (methods.post) app.post(path, methods.post);
    const allow = [...(methods.get ? ['GET', 'HEAD'] : []), ...(methods.post ? ['POST'] : [])].join(', ');
    app.all(path, (request) => {
      throw new Problem(405, `${request.method} is not allowed on ${path}, but ${allow} is.`, {
        headers: { Allow: allow },
      });
    });
  }
  app.use((request) => {
    throw new Problem(404, `There is no ${request.path} here; there are ${Object.keys(all).join(', ')}.`);
  });
  // Express recognises an error handler by its four parameters.
  app.use(((error, request, response, _next) => answerError(logger, error, request, response)) as ErrorRequestHandler);
  return app;
}

/** Answers whether the service is ready. What is only for the log is logged once, not at each probe. */
function readiness(ready: ReadyCheck, logger: Logger): RequestHandler {
  let logged: string | undefined;
  return async (_request, response) => {
    const reason = await ready().then(
      () => undefined,
      (error: Error) => error,
    );
    const cause = (reason?.cause as Error | undefined)?.message;
    if (cause !== undefined && cause !== logged) logger.warn('Not ready', { reason: cause });
    logged = cause;
    if (reason) throw new Problem(503, reason.message, { cause: reason });
    response.json({ status: 'ready' });
  };
}

/** Closes the connection of a request whose body no route reads: the client could take forever to send it. */
const leaveBody: RequestHandler = (request, response, next) => {
  if (!request.complete && hasBody(request)) response.set('Connection', 'close');
  next();
};

/** Answers with what the client may know about an error; the log gets the rest. */
export function answerError(logger: Logger, error: unknown, ...[request, response]: Parameters<RequestListener>): void {
  const problem = toProblem(error);
  if (problem.status === 500) {
    logger.error('Request failed', { method: request.method, path: request.url, error: problem.cause ?? problem });
  }
  sendProblem(request, response, problem);
}

export interface HttpServer {
  /** With the address and the port that it listens on. */
  readonly url: string;
  readonly server: Server;
  /** Accepts no new connection and resolves when all are answered and closed: see `Connections.end`. */
  stop(): Promise<void>;
}

/** Another program listens on the port. */
export class PortTakenError extends Error {
  override name = 'PortTakenError';
}

/** There is no such address on this machine. */
export class NoSuchHostError extends Error {
  override name = 'NoSuchHostError';
}

/** Larger headers are answered 431. */
const MAX_HEADER_BYTES = 16 * 1024;

export interface ListenOptions {
  /** The address to listen on (127.0.0.1): only this machine reaches a loopback one; 0.0.0.0 and :: are every one. */
  host?: string;
  /** How long a client may take to send the headers of a request, in ms (10,000); a slower one is answered 408. */
  headersTimeoutMs?: number;
  /** Connections at a time (1,000); one more is closed at once. */
  maxConnections?: number;
  /** The variable that sets the port (PORT). */
  variable?: string;
}

/**
 * The handler limits how long a body may take: node's `requestTimeout` can't tell a slow client from a long stream.
 *
 * @throws {PortTakenError} when another program listens on the port.
 * @throws {NoSuchHostError} when this machine has no such address.
 */
export async function listen(
  handler: RequestListener,
  port: number,
  { host = '127.0.0.1', headersTimeoutMs = 10_000, maxConnections = 1_000, variable = 'PORT' }: ListenOptions = {},
): Promise<HttpServer> {
  const server = createServer({
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: headersTimeoutMs,
    requestTimeout: 0,
    connectionsCheckingInterval: Math.min(1_000, headersTimeoutMs),
    requireHostHeader: false, // Node's own answer is no problem+json
  });
  server.maxConnections = maxConnections;
  const connections = new Connections();
  connections.attach(server, handler);
  try {
    server.listen(port, host);
    await once(server, 'listening');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE') {
      throw new PortTakenError(
        `Port ${port} is taken by another program: stop that one, or set ${variable} to a free port.`,
      );
    }
    if (code === 'EADDRNOTAVAIL' || code === 'EAFNOSUPPORT' || code === 'ENOTFOUND' || code === 'EAI_AGAIN') {
      throw new NoSuchHostError(`HOST: this machine has no address ${host}; 127.0.0.1 and 0.0.0.0 are always there.`);
    }
    throw error;
  }
  return {
    url: httpUrl(host, (server.address() as AddressInfo).port),
    server,
    stop: () => (server.listening ? connections.end(server) : Promise.resolve()),
  };
}
