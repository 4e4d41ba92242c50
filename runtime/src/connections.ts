/** The connections of an HTTP server: a bound on what one of them asks for at once, and their end in order. */
import cluster from 'node:cluster';
import { once } from 'node:events';
import type { RequestListener, Server, ServerResponse } from 'node:http';
import net, { type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { Problem, rawProblem, sendProblem } from './problem.ts';

/** Requests that a connection may send ahead of their answers. All of those in one packet are parsed at once. */
const MAX_PIPELINED = 32;

/** How long a stopping server waits for the next request on an idle connection, in ms: a client in a loop sends by then. */
const IDLE_MS = 300;
/** How long it waits for a client to take an answer that is finished on our side, in ms. */
const UNREAD_MS = 2_000;
const SWEEP_MS = 50;
/** In how many ms all workers of a port have given it up. */
const OTHER_WORKERS_MS = 200;

/** The statuses of the errors of Node's parser; any other is a 400. */
const STATUSES: Record<string, number> = {
  HPE_HEADER_OVERFLOW: 431,
  HPE_CHUNK_EXTENSIONS_OVERFLOW: 413,
  ERR_HTTP_REQUEST_TIMEOUT: 408,
};

const DETAILS: Record<number, string> = {
  400: 'The request is not HTTP.',
  408: 'The headers of the request did not come in time.',
  413: 'The body has chunk extensions that are too long.',
  431: 'The headers of the request are too long.',
};

const CLOSE = { headers: { Connection: 'close' } };

/** Keeps each connection with its latest answer: by connection, since a listener for each request would cost too much. */
export class Connections {
  readonly #latest = new Map<Socket, ServerResponse | undefined>();
  /** For connections that pipeline: the answers that wait for an earlier one. */
  readonly #ahead = new Map<Socket, number>();
  #stopping = false;

  /** Puts `handler` behind these rules; the server must have `requireHostHeader` off. */
  attach(server: Server, handler: RequestListener): void {
    server.on('connection', (socket) => {
      this.#latest.set(socket, undefined);
      socket.once('close', () => {
        this.#latest.delete(socket);
        this.#ahead.delete(socket);
      });
    });
    server.on('request', (request, response) => {
      const { socket } = request;
      // Only then does an earlier request on this connection wait for its answer.
      if (response.socket === null && !this.#mayWait(socket, response)) return;
      this.#latest.set(socket, response);
      if (this.#stopping) response.shouldKeepAlive = false;
      if (request.headers.host === undefined && request.httpVersion === '1.1') {
        return sendProblem(request, response, new Problem(400, 'The request has no Host header.', CLOSE));
      }
      handler(request, response);
    });
    server.on('checkExpectation', (request, response) =>
      sendProblem(request, response, new Problem(417, 'Expect: only 100-continue is known.', CLOSE)),
    );
    server.on('clientError', (error: NodeJS.ErrnoException, socket) => this.#answerUnparsed(error, socket as Socket));
  }

  /** False for a request that is one too many, whose connection ends. */
  #mayWait(socket: Socket, response: ServerResponse): boolean {
    const ahead = (this.#ahead.get(socket) ?? 0) + 1;
    if (ahead > MAX_PIPELINED) socket.destroy();
    if (socket.destroyed) return false;
    this.#ahead.set(socket, ahead);
    response.once('close', () => {
      const left = this.#ahead.get(socket);
      if (left !== undefined) this.#ahead.set(socket, left - 1);
    });
    return true;
  }

  /** Answers what Node could not parse, unless the client would take it for the answer to an earlier request. */
  #answerUnparsed(error: NodeJS.ErrnoException, socket: Socket): void {
    const response = this.#latest.get(socket);
    const owed = response && !response.writableFinished && (response.headersSent || response.req.complete);
    if (owed || !socket.writable) {
      socket.destroy(error);
      return;
    }
    const status = STATUSES[error.code ?? ''] ?? 400;
    socket.end(rawProblem(new Problem(status, DETAILS[status]!)), () => socket.destroy());
  }

  /**
   * Accepts no connection any more, answers what comes on the open ones with `Connection: close`, and resolves when all
   * have ended. An idle one is closed after 0.3 s without a request: to close it at once would break off the
   * request that a client in a loop is just sending.
   */
  async end(server: Server): Promise<void> {
    const closed = once(server, 'close');
    // That of net: `close` of an HTTP server ends the idle connections at once.
    net.Server.prototype.close.call(server);
    // A client that is told to close connects again: to a port that the other workers have not given up yet, and that
    // resets its connection when they do.
    if (cluster.isWorker) await sleep(OTHER_WORKERS_MS);
    this.#stopping = true;
    for (const response of this.#latest.values()) {
      if (response && !response.headersSent) response.shouldKeepAlive = false;
    }
    const since = performance.now();
    const sweep = setInterval(() => {
      const elapsed = performance.now() - since;
      if (elapsed < IDLE_MS) return;
      for (const [socket, response] of this.#latest) {
        if (!response || response.writableFinished || (response.writableEnded && elapsed > UNREAD_MS)) socket.destroy();
      }
    }, SWEEP_MS);
    await closed;
    clearInterval(sweep);
    server.close(); // ends Node's own timer for slow headers
  }
}
