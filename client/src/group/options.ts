/** What a member of a group can be told, and what it tells. */
import type { Signal } from '@pg-signals/db';
import type { Pool } from 'pg';
import { type FeedRow, type FeedTable, signalsTable } from '../listen/feedTable.ts';
import type { ListenerObserver, ListenerOptions } from '../listen/listener.ts';
import { type Logger, silent } from '../logger.ts';

/** Is called with what a member does; for metrics. */
export interface GroupObserver extends ListenerObserver {
  /** Rows that the handler has finished, or that were kept for another run. */
  handled(rows: number): void;
  /** A row is run again. */
  retried(): void;
  /** A row was given up after its last attempt. */
  deadLetter(): void;
  /** The member owns so many lanes now. */
  lanes(count: number): void;
}

export interface GroupOptions<Row extends FeedRow = Signal> extends Omit<ListenerOptions, 'concurrency' | 'observer'> {
  /** Letters, digits and `_.:-`, 63 at most. */
  name: string;
  /** Where a new group begins: with what is committed from now on (default), or with the first row of the table. */
  from?: 'latest' | 'earliest';
  /** Into how many parts the work is divided, and so how many members can share it (64); fixed when the group is made. */
  lanes?: number;
  /** Rows of one key come one after another: a column, or a path into a JSON column such as `attributes.room`. */
  order?: string;
  /** Handlers that may run at a time in this member (1). */
  concurrency?: number;
  /** Time limit of a handler, in ms (30,000). */
  timeoutMs?: number;
  /** Runs of a row after its first, before it is a dead letter (5). */
  retries?: number;
  /** For how long a member that is not heard of keeps its lanes, in ms (10,000). */
  leaseMs?: number;
  /** Time between two checkpoints, in ms (1,000). */
  checkpointMs?: number;
  /** Handled rows between two checkpoints (1,000). */
  checkpointRows?: number;
  /** The table (`signals`). */
  feed?: FeedTable<Row>;
  observer?: Partial<GroupObserver>;
  /** Awaited before each checkpoint: resolves when what the handlers did is safe. For handlers that write with a delay. */
  flush?: () => Promise<unknown> | undefined;
}

const DEFAULTS = {
  from: 'latest' as 'latest' | 'earliest',
  lanes: 64,
  concurrency: 1,
  timeoutMs: 30_000,
  retries: 5,
  leaseMs: 10_000,
  checkpointMs: 1_000,
  checkpointRows: 1_000,
  maxRowBytes: 16 * 2 ** 20,
  proofTimeoutMs: 5_000,
};

/** What a timer of Node can wait for, in ms: it takes anything longer for 1. */
const TIMER_MAX = 2 ** 31 - 1;

/** What the log calls a group, or a slot. */
export interface Words {
  /** The field with its name. */
  readonly label: string;
  readonly taken: string;
  readonly left: string;
  readonly lost: string;
  readonly failed: string;
}

const WORDS: Words = {
  label: 'group',
  taken: 'Lanes taken',
  left: 'Left the group',
  lost: 'Lost its lanes, joining the group again',
  failed: 'Not in the group, joining again',
};

/** The options of a member, each with its value. */
export type MemberOptions<Row extends FeedRow> = typeof DEFAULTS &
  Pick<GroupOptions<Row>, 'name' | 'order' | 'flush'> & {
    words: Words;
    feed: FeedTable<Row>;
    logger: Logger;
    observer: Partial<GroupObserver>;
  };

/** @throws {RangeError} for an option that can't be, or a pool of fewer than 3 connections. */
export function memberOptions<Row extends FeedRow>(pool: Pool, options: GroupOptions<Row>): MemberOptions<Row> {
  const feed = options.feed ?? (signalsTable as unknown as FeedTable<Row>);
  const resolved = { ...DEFAULTS, words: WORDS, logger: silent, observer: {}, ...options, feed };
  if (pool.options.max < 3) {
    throw new RangeError(`A group needs a pool of at least 3 connections: max is ${pool.options.max}`);
  }
  const { name, lanes, order, retries } = resolved;
  if (!/^[A-Za-z0-9_.:-]{1,63}$/.test(name)) {
    throw new RangeError(`name: expected 1 to 63 letters, digits and _.:-, got ${JSON.stringify(name)}`);
  }
  if (!(Number.isSafeInteger(lanes) && lanes >= 1 && lanes <= 1024)) {
    throw new RangeError(`lanes: expected 1 to 1024, got ${lanes}`);
  }
  if (!(Number.isSafeInteger(retries) && retries >= 0)) {
    throw new RangeError(`retries: expected a whole number, got ${retries}`);
  }
  for (const key of ['concurrency', 'timeoutMs', 'leaseMs', 'checkpointMs', 'checkpointRows'] as const) {
    const value = resolved[key];
    if (!(Number.isSafeInteger(value) && value > 0 && value <= TIMER_MAX)) {
      throw new RangeError(`${key}: expected a whole number from 1 to ${TIMER_MAX}, got ${value}`);
    }
  }
  const column = order?.split('.')[0];
  if (column !== undefined && !feed.columns.includes(column)) {
    throw new RangeError(`order: expected a column of ${feed.table} (${feed.columns.join(', ')}), got ${column}`);
  }
  return resolved;
}

/** The listener's part of the options. */
export function listenerOptions<Row extends FeedRow>(options: GroupOptions<Row>): ListenerOptions {
  const { name, from, lanes, order, concurrency, timeoutMs, retries, leaseMs, ...rest } = options;
  const { checkpointMs, checkpointRows, feed, flush, ...listener } = rest;
  return listener;
}
