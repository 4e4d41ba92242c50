/** Groups made worse on purpose, each in the way of a mistake that one makes: the checker must find every one. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Signal } from '@pg-signals/db';
import type pg from 'pg';
import type { BatchHandler, GroupOptions, Handler } from 'pg-signals';
import type { GroupName } from './groupKinds.ts';

export const SPOILS = {
  /** A handler's failure counts as success. */
  'forgets the retries': {
    each: (handler) => async (signal, context) => void (await swallow(handler(signal, context))),
  },
  /** A row is stored as handled when its handler has only begun. */
  'checkpoints before handling': {
    each: (handler) => (signal, context) => void setTimeout(() => swallow(handler(signal, context)), 1_500),
  },
  /** No order of keys is asked for. */
  'breaks the order': { options: { order: undefined } },
  /** No checkpoint is stored but at the end, and none is waited for. */
  'stores too seldom': { options: { checkpointMs: 600_000, checkpointRows: 100_000 } },
  /** What a batch counts is committed apart from its checkpoint, and before it. */
  'counts outside the transaction': { batch: (handler, pool) => (signals) => apart(handler, signals, pool) },
} satisfies Record<string, Spoil>;

export type SpoilName = keyof typeof SPOILS;

/** The group that is made worse so. @throws {RangeError} */
export function spoilsBy(name: string): Partial<Record<GroupName, SpoilName>> {
  if (!(name in SPOILS)) throw new RangeError(`SPOIL: expected one of ${Object.keys(SPOILS).join(', ')}`);
  const spoil = name as SpoilName;
  const group =
    spoil === 'breaks the order' ? 'keyed' : spoil === 'counts outside the transaction' ? 'totals' : 'plain';
  return { [group]: spoil };
}

export interface Spoil {
  readonly options?: { [Name in keyof GroupOptions]?: GroupOptions[Name] | undefined };
  readonly each?: (handler: Handler<Signal>) => Handler<Signal>;
  readonly batch?: (handler: BatchHandler<Signal>, pool: pg.Pool) => BatchHandler<Signal>;
}

async function swallow(result: unknown): Promise<void> {
  try {
    await result;
  } catch {}
}

async function apart(handler: BatchHandler<Signal>, signals: readonly Signal[], pool: pg.Pool): Promise<void> {
  const client = await pool.connect();
  try {
    await handler(signals, client);
    await sleep(300);
  } finally {
    client.release();
  }
}
