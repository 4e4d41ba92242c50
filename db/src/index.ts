export { type BackoffOptions, backoff } from './backoff.ts';
export { messageOf } from './messageOf.ts';
export { checkChannel, notify } from './notify.ts';
export { createPool, type PoolOptions } from './pool.ts';
export {
  acquire,
  ConnectTimeoutError,
  createQuery,
  discard,
  discardIdle,
  NoAnswerError,
  NotConnectedError,
  type Query,
  QueryTimeoutError,
  queryOn,
  queryWithin,
  withConnection,
} from './query.ts';
export { missingRights, type Role, requireRights, rightsOf, SchemaError } from './rights.ts';
export { databaseSettings } from './settings.ts';
export {
  PayloadError,
  type PublishedSignal,
  parseSignal,
  SIGNAL_COLUMNS,
  SIGNALS_CHANNEL,
  type Signal,
  type TruncatedSignal,
  toUtc,
} from './signal.ts';
