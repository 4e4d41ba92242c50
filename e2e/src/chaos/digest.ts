/** A signal as one number: comparing millions of deliveries with the table stays cheap. */
import { crc32 } from 'node:zlib';
import type { Signal } from '@pg-signals/db';

/** A checksum of every column, from 1 to 2^32 - 1. */
export function digest({ id, timestamp, signal_name, signal_value, attributes, xid }: Signal): number {
  return crc32(JSON.stringify([id, timestamp, signal_name, signal_value, attributes, xid])) || 1;
}
