/** What the library logs with: the three methods that it calls. winston, pino and `console` have them. */
export interface Logger {
  info(message: string, fields?: Record<string, unknown>): unknown;
  warn(message: string, fields?: Record<string, unknown>): unknown;
  error(message: string, fields?: Record<string, unknown>): unknown;
}

/** The library is silent unless it is given a logger. */
export const silent: Logger = { info() {}, warn() {}, error() {} };
