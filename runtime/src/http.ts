/** The HTTP side of a service: its routes under one error middleware, and a server that stops in order. */
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import type { Logger } from './logger.ts';
import { hasBody, Problem, sendProblem, toProblem } from './problem.ts';

/** Resolves when the service can do its work now; rejects with an error whose message is the reason when it can't. */
export type ReadyCheck = () => Promise<void>;

/** What `/metrics` shows; a prom-client registry is one. */
export interface Metrics {
  readonly contentType: string;
  metrics(): Promise<string>;
}

export interface AppOptions {
  logger: Logger;
  metrics: Metrics;
  ready: ReadyCheck;
  /** The service's own routes, by path and method in lower case. */
  routes?: Record<string, Partial<Record<'get' | 'post', RequestHandler>>>;
}

/**
 * An express application with `GET /healthz` (the process answers), `GET /readyz` (it can work now; else 503 and the
 * reason), `GET /metrics`, and the routes given. Every error leaves as problem+json.
 */
export function createApp({ logger, metrics, ready, routes = {} }: AppOptions): Express {
  const app = express().disable('x-powered-by').disable('etag').set('query parser', 'simple');
  const all: NonNullable<AppOptions['routes']> = {
    ...routes,
    '/healthz': { get: (_request, response) => void response.json({ status: 'ok' }) },
    '/readyz': {
      get: async (_request, response) => {
        await ready().catch((reason: Error) => {
          throw new Problem(503, reason.message, { cause: reason });
        });
        response.json({ status: 'ready' });
      },
    },
    '/metrics': {
      get: async (_request, response) => {
        response.type(metrics.contentType).send(await metrics.metrics());
      },
    },
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
  // Express tells an error handler by its four parameters.
  app.use(((error, request, response, _next) => answerError(logger, error, request, response)) as ErrorRequestHandler);
  return app;
}

/** A body that nobody reads ends with its connection: the client could take for ever to send it. */
const leaveBody: RequestHandler = (request, response, next) => {
  if (!request.complete && hasBody(request)) response.set('Connection', 'close');
  next();
};

/** Tells the client what it may know of an error, and the log the rest. */
export function answerError(logger: Logger, error: unknown, ...[request, response]: Parameters<RequestListener>): void {
  const problem = toProblem(error);
  if (problem.status === 500) {
    logger.error('Request failed', { method: request.method, path: request.url, error: problem.cause ?? problem });
  }
  sendProblem(request, response, problem);
}

export interface HttpServer {
  /** `http://127.0.0.1:<port>`, with the port that was really taken. */
  readonly url: string;
  readonly server: Server;
  /** Takes no new connection, lets the requests in flight finish, then resolves. */
  stop(): Promise<void>;
}

/** How often a server that stops looks for connections that have become idle. */
const SWEEP_MS = 50;

/** The port asked for is not to be had. */
export class PortTakenError extends Error {
  override name = 'PortTakenError';
}

/** Past it a client is sent 431. */
const MAX_HEADER_BYTES = 16 * 1024;

export interface ListenOptions {
  /** How long a client may take to send the headers of a request, in ms (10,000); past it it is sent 408. */
  headersTimeoutMs?: number;
}

/**
 * Serves on every interface (a container's port is published from there).
 *
 * How long a body may take is the handler's to say: node's `requestTimeout` knows no difference between a slow client and
 * a long stream.
 *
 * @throws {PortTakenError} when another program listens on the port.
 */
export async function listen(
  handler: RequestListener,
  port: number,
  { headersTimeoutMs = 10_000 }: ListenOptions = {},
): Promise<HttpServer> {
  const server = createServer(
    {
      maxHeaderSize: MAX_HEADER_BYTES,
      headersTimeout: headersTimeoutMs,
      requestTimeout: 0,
      connectionsCheckingInterval: Math.min(1_000, headersTimeoutMs),
    },
    handler,
  );
  try {
    server.listen(port);
    await once(server, 'listening');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    throw new PortTakenError(`Port ${port} is taken by another program: stop that one, or set PORT to a free port.`);
  }
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    server,
    async stop() {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      // A connection that was busy at that moment would stay open, idle, until its keep-alive ends.
      const sweep = setInterval(() => server.closeIdleConnections(), SWEEP_MS);
      await closed;
      clearInterval(sweep);
    },
  };
}
