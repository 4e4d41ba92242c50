/** The URLs of a service that listens on `HOST` and `PORT`. */

/** Where it listens. */
export function httpUrl(host: string, port: number | string): string {
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** Where a program on the same machine reaches it: one that listens on every address, or on the default, by `localhost`. */
export function localUrl(host: string | undefined, port: number | string): string {
  return httpUrl(!host || ['127.0.0.1', '0.0.0.0', '::'].includes(host) ? 'localhost' : host, port);
}
