/** A signal as one number: comparing millions of deliveries with the table stays cheap. */
import { crc32 } from 'node:zlib';
import type { Signal, TruncatedSignal } from '@pg-signals/db';

/** The name of every forged signal, which no writer gives. */
export const FORGED_NAME = 'forged';

/** In place of a checksum: only the id of the row came. */
export const NO_VALUES = 0;
/** In place of a checksum: the signal was forged. */
export const FORGED = 1;

/** A checksum of every column, from 2 to 2^32 - 1; or one of the above. */
export function digest(signal: Signal | TruncatedSignal): number {
  if ('truncated' in signal) return NO_VALUES;
  const { id, timestamp, signal_name, signal_value, attributes, xid } = signal;
  if (signal_name === FORGED_NAME) return FORGED;
  return Math.max(2, crc32(JSON.stringify([id, timestamp, signal_name, signal_value, attributes, xid])));
}
