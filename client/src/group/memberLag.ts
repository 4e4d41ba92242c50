/** How far a member's lanes are behind, from what it remembers of them: newer than what `npm run groups` reads. */
import type { Pool } from 'pg';
import { type GroupShape, type Lag, lagOfLanes, planLag, sumOf } from './admin/lag.ts';
import { reading } from './admin/transaction.ts';
import type { StoredCursor } from './storedCursor.ts';

export interface MemberLagOptions {
  /** Rows read at most for each distinct cursor, other members' too (100,000: some 50 ms of the server); past that a lag is a lower bound. */
  bound?: number;
  /** In ms (1,000). */
  timeoutMs?: number;
}

/** Undefined where the table is gone. */
export function memberLag(
  pool: Pool,
  group: GroupShape,
  cursors: readonly StoredCursor[],
  { bound = 100_000, timeoutMs = 1_000 }: MemberLagOptions = {},
): Promise<Lag | undefined> {
  return reading(
    pool,
    async (query) => {
      await planLag(query);
      const lags = await lagOfLanes(query, group, cursors, Date.now(), bound);
      return lags && sumOf(lags);
    },
    timeoutMs,
  );
}
