/** One HTTP connection that is kept, with as little of a client around it as Node allows. */
import { Agent, request } from 'node:http';

export function createHttpClient(base: string) {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  return {
    /** Resolves with the body of a 200. */
    send(method: 'GET' | 'POST', path: string): Promise<string> {
      return new Promise((resolve, reject) => {
        const sent = request(`${base}${path}`, { agent, method }, (response) => {
          let body = '';
          response.setEncoding('utf8').on('data', (text) => {
            body += text;
          });
          response.on('end', () => {
            if (response.statusCode === 200) resolve(body);
            else reject(new Error(`${method} ${path}: ${response.statusCode} ${body}`));
          });
        });
        sent.on('error', reject).end();
      });
    },
    close: () => agent.destroy(),
  };
}
