/** Stands between consumer and server, holds back what the server sends, and lets it go all at once. */
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export interface Relay {
  readonly url: string;
  /**
   * Stops the consumer's process, so that it does not miss what is held back, and calls `write`. Resolves when all that
   * was written is here, up to a notification that includes `last`.
   */
  fill(consumer: ChildProcess, last: string, write: () => Promise<void>): Promise<void>;
  /** Sends on what was held, as fast as the consumer reads it, and lets its process go on. */
  release(consumer: ChildProcess): void;
  close(): void;
}

/** Starts a relay on 127.0.0.1 in front of the database at `databaseUrl`. */
export async function startRelay(databaseUrl: string): Promise<Relay> {
  const target = new URL(databaseUrl);
  const connections = new Map<Socket, Buffer[]>();
  let awaited: { text: string; resolve: () => void } | undefined;
  let holding = false;

  const server = createServer({ noDelay: true }, (consumer) => {
    const postgres = connect({ port: Number(target.port), host: target.hostname, noDelay: true });
    const held: Buffer[] = [];
    connections.set(consumer, held);
    consumer.pipe(postgres);
    postgres.on('data', (chunk) => {
      if (!holding) {
        consumer.write(chunk);
        return;
      }
      // The text may lie across two chunks.
      const end = Buffer.concat([held.at(-1)?.subarray(-64) ?? Buffer.alloc(0), chunk]);
      held.push(chunk);
      if (awaited && end.includes(awaited.text)) awaited.resolve();
    });
    const close = () => {
      connections.delete(consumer);
      consumer.destroy();
      postgres.destroy();
    };
    consumer.on('error', close).on('close', close);
    postgres.on('error', close).on('close', close);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(databaseUrl);
  url.port = String((server.address() as { port: number }).port);

  return {
    url: url.href,
    async fill(consumer, last, write) {
      const { promise, resolve } = Promise.withResolvers<void>();
      awaited = { text: last, resolve };
      holding = true;
      consumer.kill('SIGSTOP');
      await Promise.all([promise, write()]);
    },
    release(consumer) {
      holding = false;
      for (const [socket, held] of connections) socket.write(Buffer.concat(held.splice(0)));
      consumer.kill('SIGCONT');
    },
    close() {
      server.close();
      for (const consumer of connections.keys()) consumer.destroy();
    },
  };
}
