/** What became of signals whose handler failed: those that are tried again, and those that were given up. */
import type { Query } from '@pg-signals/db';
import type { Pool } from 'pg';
import { findGroup } from './findGroup.ts';
import { reading } from './transaction.ts';

export interface RetryState {
  readonly signal_id: number;
  readonly lane: number;
  /** What orders it; null without an order. */
  readonly key: string | null;
  /** Runs that were begun. */
  readonly attempts: number;
  /** RFC 3339 in UTC; null while it waits behind an earlier signal of its key. */
  readonly due_at: string | null;
  /** Epoch of the member that runs it now. */
  readonly running: number | null;
  readonly first_error: string | null;
  readonly last_error: string | null;
}

export interface DeadLetter {
  readonly signal_id: number;
  /** The row as it was handled; null where it had been deleted. */
  readonly signal: Readonly<Record<string, unknown>> | null;
  readonly attempts: number;
  readonly first_error: string | null;
  readonly last_error: string | null;
  /** RFC 3339 in UTC. */
  readonly died_at: string;
}

export interface ListOptions {
  /** Rows at most (100). */
  readonly limit?: number;
}

/**
 * The signals of a group that are tried again, those that are due first at the top.
 *
 * @throws {GroupError} `unknown`.
 */
export function listRetries(pool: Pool, name: string, { limit = 100 }: ListOptions = {}): Promise<RetryState[]> {
  return inUtc(pool, async (query) => {
    const { id } = await findGroup(query, name);
    const rows = await query<[RetryState]>(
      `SELECT json_build_object(
         'signal_id', signal_id,
         'lane', lane,
         'key', key,
         'attempts', attempts,
         'due_at', nullif(due_at, 'infinity'),
         'running', running,
         'first_error', first_error,
         'last_error', last_error
       )
       FROM public.signal_retries
       WHERE group_id = $1
       ORDER BY due_at, seq
       LIMIT $2`,
      [id, limit],
    );
    return rows.map(([row]) => row);
  });
}

/**
 * The dead letters under a group's name, the oldest first. They outlive a slot that expired, so no such group is no error.
 */
export function listDeadLetters(pool: Pool, name: string, { limit = 100 }: ListOptions = {}): Promise<DeadLetter[]> {
  return inUtc(pool, async (query) => {
    const rows = await query<[DeadLetter]>(
      `SELECT json_build_object(
         'signal_id', signal_id,
         'signal', signal,
         'attempts', attempts,
         'first_error', first_error,
         'last_error', last_error,
         'died_at', died_at
       )
       FROM public.dead_letters
       WHERE group_name = $1
       ORDER BY id
       LIMIT $2`,
      [name, limit],
    );
    return rows.map(([row]) => row);
  });
}

const inUtc = <T>(pool: Pool, work: (query: Query) => Promise<T>): Promise<T> =>
  reading(pool, async (query) => {
    await query(`SELECT set_config('timezone', 'UTC', true)`);
    return work(query);
  });
