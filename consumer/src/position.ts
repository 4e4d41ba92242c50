/** A point in the history of a database: what was committed before it, and on which server that is true. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Query } from './database.ts';

/** Which server a position was taken on. */
export interface Server {
  /** Given by initdb; the same on a primary and its standbys. */
  readonly systemIdentifier: string;
  /** Grows by one with each promotion of a standby. */
  readonly timeline: number;
  /** When this server process began: tells a standby promoted in place from another server. */
  readonly startedAt: string;
  readonly standby: boolean;
}

/**
 * A snapshot: every transaction is either committed before it or not.
 *
 * On a primary it is exact. A standby does not tell which transactions are still running (its `pg_current_snapshot()` has
 * an empty list of them), so there only what lies below `xmin` is settled.
 */
export interface Position {
  /** As PostgreSQL writes a `pg_snapshot`: `xmin:xmax:xip,xip,…`. */
  readonly snapshot: string;
  readonly server: Server;
  /** End of the write-ahead log when the snapshot was taken, in bytes. */
  readonly lsn: bigint;
  /** What of the log was on disk then, in bytes. */
  readonly flushedLsn: bigint;
  /** When it was asked for, as `performance.now()` tells it: all committed before that is in it. */
  readonly takenAt: number;
}

const POSITION_COLUMNS = `
  pg_current_snapshot()::text,
  (pg_control_system()).system_identifier::text,
  CASE WHEN pg_is_in_recovery()
    THEN (pg_control_checkpoint()).timeline_id
    ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int
  END,
  pg_postmaster_start_time()::text,
  pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn`;

type PositionRow = [string, string, number, string, boolean, string, string];

/** Where the database stands now. */
export function takePosition(query: Query): Promise<Position> {
  return ask(query, `SELECT ${POSITION_COLUMNS}`, []);
}

/**
 * Where the database stands now, with a notification sent after it: the snapshot is that of the statement, the
 * notification leaves at its commit. Whoever gets it has before it got all that the snapshot sees.
 */
export function takePositionAndNotify(query: Query, channel: string, payload: string): Promise<Position> {
  return ask(query, `SELECT ${POSITION_COLUMNS}, pg_notify($1, $2)`, [channel, payload]);
}

async function ask(query: Query, sql: string, values: unknown[]): Promise<Position> {
  const takenAt = performance.now();
  const [row] = await query<PositionRow>(sql, values);
  const [snapshot, systemIdentifier, timeline, startedAt, standby, lsn, flushedLsn] = row!;
  const server = { systemIdentifier, timeline, startedAt, standby };
  return { snapshot, server, lsn: BigInt(lsn), flushedLsn: BigInt(flushedLsn), takenAt };
}

/** The first transaction that the snapshot does not know to be settled, and the first that it has not seen begin. */
export function bounds(snapshot: string): { xmin: bigint; xmax: bigint } {
  const [xmin = '', xmax = ''] = snapshot.split(':');
  return { xmin: BigInt(xmin), xmax: BigInt(xmax) };
}

/** How long the log may take to reach the disk by itself, in ms; wal_writer_delay is 200 ms unless it was changed. */
const FLUSH_PATIENCE_MS = 300;

/**
 * Resolves when the server's log is on disk up to a position, as it is at once or a moment later; after 300 ms it is
 * forced there.
 *
 * A transaction that ended without being flushed (one that was rolled back, or only notified) never was after a crash, and
 * its number is given out again. A snapshot that counts it as past would hide the row of the one that comes after.
 */
export async function untilDurable(query: Query, position: Position, ended?: AbortSignal): Promise<void> {
  let { flushedLsn } = position;
  for (const start = performance.now(); flushedLsn < position.lsn && !ended?.aborted; ) {
    if (performance.now() - start > FLUSH_PATIENCE_MS) return forceFlush(query);
    await sleep(20);
    ({ flushedLsn } = await takePosition(query));
  }
}

/** A commit that writes is flushed, with all of the log before it; this writes a message that nobody reads. */
async function forceFlush(query: Query): Promise<void> {
  await query(`
    SELECT set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'pg_signals', 'flush')::text`);
}
