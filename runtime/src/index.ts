export { readEnvFile } from './envFile.ts';
export {
  type AppOptions,
  answerError,
  createApp,
  type HttpServer,
  type ListenOptions,
  listen,
  type Metrics,
  NoSuchHostError,
  PortTakenError,
  type ReadyCheck,
} from './http.ts';
export { httpUrl, localUrl } from './httpUrl.ts';
export { createLogger, type Logger, type LoggerOptions } from './logger.ts';
export { createMetrics, type PoolFigures } from './metrics.ts';
export { NODE_FLAGS } from './nodeFlags.ts';
export { hasBody, Problem } from './problem.ts';
export { type RunOptions, runService, type Service } from './service.ts';
export { commonVariables, duration, milliseconds, port, readSettings, wholeNumber } from './settings.ts';
export { SettingsError } from './settingsError.ts';
