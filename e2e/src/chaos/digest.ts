/** A signal in one number, so that what a consumer was told can be compared with the table at little cost. */
import { crc32 } from 'node:zlib';
import type { Signal } from '@pg-signals/db';

/** A checksum of every column, from 1 to 2^32 - 1. */
export function digest({ id, timestamp, signal_name, signal_value, attributes }: Signal): number {
  return crc32(JSON.stringify([id, timestamp, signal_name, signal_value, attributes])) || 1;
}
