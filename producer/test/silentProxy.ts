/** A TCP proxy in front of the database that can go silent, as a network does: nothing is closed, nothing comes through. */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

export interface SilentProxy {
  /** The database's URL, by way of the proxy. */
  url: string;
  /** Passes nothing on, in either direction, on the connections there are and on new ones. */
  silence(): void;
  /** Passes on again, also what came meanwhile. */
  resume(): void;
  /** Closes every connection, and new ones as they come, until `resume`. */
  cut(): void;
  close(): Promise<void>;
}

export async function startSilentProxy(databaseUrl: string): Promise<SilentProxy> {
  const target = new URL(databaseUrl);
  const pairs = new Set<[Socket, Socket]>();
  let mode: 'passing' | 'silent' | 'cut' = 'passing';
  const server = createServer((near) => {
    if (mode === 'cut') return near.destroy();
    const far = connect(Number(target.port), target.hostname);
    const pair: [Socket, Socket] = [near, far];
    pairs.add(pair);
    for (const [from, to] of [pair, [far, near] as const]) {
      from.on('error', () => {});
      from.on('data', (chunk) => to.write(chunk));
      from.on('close', () => {
        pairs.delete(pair);
        to.destroy();
      });
      if (mode === 'silent') from.pause();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String((server.address() as AddressInfo).port);
  const each = (act: (socket: Socket) => void) => {
    for (const pair of pairs) pair.forEach(act);
  };
  return {
    url: url.href,
    silence() {
      mode = 'silent';
      each((socket) => socket.pause());
    },
    resume() {
      mode = 'passing';
      each((socket) => socket.resume());
    },
    cut() {
      mode = 'cut';
      each((socket) => socket.destroy());
    },
    async close() {
      each((socket) => socket.destroy());
      server.close();
      await once(server, 'close');
    },
  };
}
