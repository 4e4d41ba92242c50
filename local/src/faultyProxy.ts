/** A TCP proxy on 127.0.0.1 in front of a server, which fails on request as networks fail. For tests. */
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

/** What can be blocked: new connections, or the bytes in one direction. */
export type Way = 'connect' | 'toServer' | 'toClient';

/** One proxied connection. */
interface Link {
  readonly client: Socket;
  readonly server: Socket;
  /** Nothing passes any more, and the client is not notified. */
  forgotten: boolean;
}

export class FaultyProxy {
  /** The port of the server; new connections go there. */
  target: number;
  /** The port for each new connection, where they don't all go to one. */
  choose: () => number = () => this.target;
  readonly #server: Server;
  readonly #links = new Set<Link>();
  readonly #waiting = new Set<Socket>();
  readonly #blocks = new Set<{ ways: readonly Way[]; over: Promise<void> }>();
  #latency = 0;

  constructor(targetPort: number) {
    this.target = targetPort;
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => this.#accept(client));
  }

  async start(): Promise<void> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
  }

  get port(): number {
    return (this.#server.address() as { port: number }).port;
  }

  /** Resets every connection: both sides notice at once. */
  cut(): void {
    for (const { client, server } of this.#links) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
    for (const client of this.#waiting) client.destroy();
  }

  /** Lets nothing pass on these ways, on old and new connections, until the returned function is called. */
  block(...ways: Way[]): () => void {
    const over = Promise.withResolvers<void>();
    const block = { ways, over: over.promise };
    this.#blocks.add(block);
    return () => {
      this.#blocks.delete(block);
      over.resolve();
    };
  }

  /** Makes the present connections half-open: the server's side ends, and the client never learns it. New ones work. */
  forget(): void {
    for (const link of this.#links) {
      link.forgotten = true;
      link.server.destroy();
    }
  }

  /** Delays each chunk (at most 64 kB) by `latencyMs`, until the returned function is called. */
  slow(latencyMs: number): () => void {
    this.#latency += latencyMs;
    return () => {
      this.#latency -= latencyMs;
    };
  }

  close(): void {
    this.#server.close();
    for (const { client, server } of this.#links) {
      client.destroy();
      server.destroy();
    }
    for (const client of this.#waiting) client.destroy();
  }

  async #accept(client: Socket): Promise<void> {
    client.on('error', () => {}); // #carry ends the other side
    this.#waiting.add(client);
    await this.#open('connect');
    this.#waiting.delete(client);
    if (client.destroyed) return;
    const server = connect({ port: this.choose(), host: '127.0.0.1', allowHalfOpen: true, noDelay: true });
    server.on('error', () => {});
    const link = { client, server, forgotten: false };
    this.#links.add(link);
    await Promise.all([
      this.#carry(link, client, server, 'toServer'), //
      this.#carry(link, server, client, 'toClient'),
    ]);
    this.#links.delete(link);
  }

  /** Carries bytes, then the end, in one direction; where that is blocked, neither passes. */
  async #carry(link: Link, from: Socket, to: Socket, way: Way): Promise<void> {
    try {
      for await (const chunk of from.iterator({ destroyOnReturn: false })) {
        await this.#pass(link, way);
        if (this.#latency > 0) await sleep(this.#latency);
        if (to.destroyed) return;
        if (!to.write(chunk)) await drained(to);
      }
    } catch {
      // A reset: handled below, like any end.
    }
    await this.#pass(link, way);
    if (from.errored || from.destroyed) to.destroy();
    else to.end();
  }

  async #pass(link: Link, way: Way): Promise<void> {
    await this.#open(way);
    if (link.forgotten) await new Promise(() => {}); // forever: close() destroys the socket
  }

  /** Resolves when nothing blocks this direction. */
  async #open(way: Way): Promise<void> {
    for (;;) {
      const block = [...this.#blocks].find(({ ways }) => ways.includes(way));
      if (!block) return;
      await block.over;
    }
  }
}

/** Resolves when the socket accepts more bytes or is closed. */
function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
  });
}
