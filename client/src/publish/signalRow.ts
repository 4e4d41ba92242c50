/** A checked signal in the shape in which the insert takes it. */
import { hash } from 'node:crypto';
import type { NewSignal } from './newSignal.ts';

export interface SignalRow {
  readonly timestamp: string | null;
  readonly signal_name: string;
  readonly signal_value: number;
  /** JSON, written once: its length counts against the limits of the queue. */
  readonly attributes: string | null;
  readonly key: RowKey | null;
  /** Whether anybody asks for the row as it is in the table. Where nobody does, the database need not send it. */
  readonly wanted: boolean;
}

/** What makes a row go in once; see the migration of `signal_keys`. */
export interface RowKey {
  readonly key: string;
  /** Which of the signals that came under this key. */
  readonly part: number;
  /** SHA-256 of what the key stands for. */
  readonly fingerprint: Buffer;
}

/** A key for everything that is published together, and what it stands for. */
export interface GroupKey {
  key: string;
  /** What was sent, as text: the same key with other content is a conflict. */
  content: string;
}

interface RowOptions {
  group?: GroupKey | undefined;
  /** Where the signal stands in its group (0). */
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

/** What a row takes in memory while it waits, in bytes, roughly: an object with a promise, and its text. */
export function rowBytes({ signal_name, attributes }: SignalRow): number {
  return 300 + signal_name.length + (attributes?.length ?? 0);
}
