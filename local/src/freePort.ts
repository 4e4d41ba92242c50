/** Finds a port for a server that a test or `make run` starts. */
import { once } from 'node:events';
import { createServer } from 'node:net';

/** A port of 127.0.0.1 on which no program listens now: `wanted` where that is free. */
export async function freePort(wanted = 0): Promise<number> {
  const server = createServer().listen(wanted, '127.0.0.1');
  try {
    await once(server, 'listening');
  } catch (error) {
    if (wanted === 0) throw error;
    return freePort();
  }
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}
