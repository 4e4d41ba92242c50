/** Stands between consumer and server, holds back what the server sends, and releases it all at once. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import type { Program } from '../process.ts';

export type Relay = Awaited<ReturnType<typeof startRelay>>;

/** Starts a relay on 127.0.0.1 in front of the database at `databaseUrl`. */
export async function startRelay(databaseUrl: string) {
  const url = new URL(databaseUrl);
  const [port, host] = [Number(url.port), url.hostname];
  const connections = new Map<Socket, Buffer[]>();
  let awaited = { text: '', resolve: () => {} };
  let holding = false;

  const server = createServer({ noDelay: true }, (consumer) => {
    const postgres = connect({ port, host, noDelay: true });
    const held: Buffer[] = [];
    connections.set(consumer, held);
    consumer.pipe(postgres);
    postgres.on('data', (chunk) => {
      if (!holding) return consumer.write(chunk);
      // The text may lie across two chunks.
      const end = Buffer.concat([held.at(-1)?.subarray(-64) ?? Buffer.alloc(0), chunk]);
      held.push(chunk);
      if (end.includes(awaited.text)) awaited.resolve();
    });
    const close = () => {
      connections.delete(consumer);
      consumer.destroy();
      postgres.destroy();
    };
    for (const socket of [consumer, postgres]) socket.on('error', close).on('close', close);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  url.port = String((server.address() as AddressInfo).port);

  return {
    /** Of the database, through the relay. */
    url: url.href,
    /**
     * Suspends the consumer's process, so that it does not notice what is held back, and calls `write`. Resolves when all
     * that was written has arrived here, up to a notification that includes `last`.
     */
    async fill(consumer: Program, last: string, write: () => Promise<void>): Promise<void> {
      const { promise, resolve } = Promise.withResolvers<void>();
      awaited = { text: last, resolve };
      holding = true;
      consumer.child.kill('SIGSTOP');
      await Promise.all([promise, write()]);
    },
    /** Sends what was held, as fast as the consumer reads it, and resumes its process. */
    release(consumer: Program): void {
      holding = false;
      for (const [socket, held] of connections) socket.write(Buffer.concat(held.splice(0)));
      consumer.child.kill('SIGCONT');
    },
    [Symbol.dispose]() {
      server.close();
      for (const consumer of connections.keys()) consumer.destroy();
    },
  };
}
