/** A valid signal in the shape that the insert takes. */
import { hash } from 'node:crypto';
import type { NewSignal } from './newSignal.ts';

export interface SignalRow {
  readonly timestamp: string | null;
  readonly signal_name: string;
  readonly signal_value: number;
  /** JSON, written once: its length counts towards the limits of the queue. */
  readonly attributes: string | null;
  readonly key: RowKey | null;
  /**
   * True where the caller wants the inserted row. Of a batch without keys in which none is wanted, the database
   * sends back none.
   */
  readonly wanted: boolean;
}

/** With this a row is inserted once; see the migration of `signal_keys`. */
export interface RowKey {
  readonly key: string;
  /** Index of the signal among those under this key. */
  readonly part: number;
  /** SHA-256 of what the key stands for. */
  readonly fingerprint: Buffer;
}

/** One idempotency key for everything that a call publishes. */
export interface GroupKey {
  /** See `isKey`. */
  key: string;
  /** What the key stands for, as text: the same key with other content fails as `key-conflict`. */
  content: string;
}

interface RowOptions {
  group?: GroupKey | undefined;
  /** Index of the signal in its group (0). */
  part?: number;
  wanted?: boolean;
}

export function toRow(signal: NewSignal, { group, part = 0, wanted = true }: RowOptions = {}): SignalRow {
  const { timestamp = null, signal_name, signal_value } = signal;
  const attributes = signal.attributes ? JSON.stringify(signal.attributes) : null;
  let key: RowKey | null = null;
  if (group) key = { key: group.key, part, fingerprint: hash('sha256', group.content, 'buffer') };
  else if (signal.key !== undefined) {
    const content = JSON.stringify([timestamp, signal_name, signal_value, attributes]);
    key = { key: signal.key, part: 0, fingerprint: hash('sha256', content, 'buffer') };
  }
  return { timestamp, signal_name, signal_value, attributes, key, wanted };
}

/** Roughly the memory that a waiting row takes, in bytes: 300 for its objects and promise, and its text. */
export function rowBytes({ signal_name, attributes }: SignalRow): number {
  return 300 + signal_name.length + (attributes?.length ?? 0);
}
