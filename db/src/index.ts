export { createPool, type PoolOptions } from './pool.ts';
export { databaseSettings } from './settings.ts';
export {
  PayloadError,
  parseSignal,
  SIGNAL_COLUMNS,
  SIGNALS_CHANNEL,
  type Signal,
  type TruncatedSignal,
  toUtc,
} from './signal.ts';
