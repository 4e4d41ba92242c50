/** One kept HTTP connection, with as little of a client around it as Node allows. */
import { once } from 'node:events';
import { Agent, request } from 'node:http';
import { text } from 'node:stream/consumers';

export function createHttpClient(base: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  return {
    /** Resolves with the body of a 200. */
    async send(method: 'GET' | 'POST', path: string): Promise<string> {
      const [response] = await once(request(`${base}${path}`, { agent, method }).end(), 'response');
      const body = await text(response);
      if (response.statusCode === 200) return body;
      throw new Error(`${method} ${path}: ${response.statusCode} ${body}`);
    },
    [Symbol.dispose]: () => agent.destroy(),
  };
}
