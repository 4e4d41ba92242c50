/** What a database had committed at one moment, and on which server that is true. */
import type { Query } from '@pg-signals/db';

/** Which server a snapshot was taken on. */
export interface Server {
  /** Made by initdb; the same on a primary and its standbys. */
  readonly systemIdentifier: string;
  /** Grows by one with each promotion of a standby. */
  readonly timeline: number;
  /**
   * When the server was started, in microseconds since 1970: no two servers have it in common, and it stays the same when a
   * standby is promoted without a restart.
   */
  readonly startedAt: string;
  readonly standby: boolean;
}

/** A server's `startedAt`, as a column: whatever is read together with it was read on that server. */
export const STARTED_AT = `(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint::text`;

/** Something was read on another server than it has to be. It does not mean that either of them is in trouble. */
export class OtherServerError extends Error {
  override name = 'OtherServerError';
}

/**
 * An address, or the pooler behind it, may lead each connection to another server.
 *
 * @param startedAt what `STARTED_AT` was where something was read.
 * @throws {OtherServerError} where that is not this server.
 */
export function requireServer(server: Server, startedAt: string): void {
  if (startedAt === server.startedAt) return;
  throw new OtherServerError('the connections of the pool lead to different servers, or the server was restarted');
}

export interface SnapshotFields {
  /** As PostgreSQL writes a `pg_snapshot`: `xmin:xmax:xip,xip,…`. */
  readonly text: string;
  readonly server: Server;
  /** End of the WAL when the snapshot was taken, in bytes. */
  readonly lsn: bigint;
  /** How much of the WAL was on disk then, in bytes. */
  readonly flushedLsn: bigint;
  /** When it was asked for, by `performance.now()`: everything committed before that is in it. */
  readonly takenAt: number;
  /** When its answer came: every snapshot asked for after that is newer, one asked for before may be older. */
  readonly receivedAt: number;
}

/**
 * A `pg_snapshot`: it says for each transaction whether it was over. Those that were, it *covers*.
 *
 * On a primary it is exact. A standby does not know which transactions are running (its `pg_current_snapshot()` has an
 * empty list of them), so there only what lies below `xmin` is certain.
 */
export class Snapshot {
  readonly text: string;
  readonly server: Server;
  readonly lsn: bigint;
  readonly flushedLsn: bigint;
  readonly takenAt: number;
  readonly receivedAt: number;
  /** The oldest transaction that was running; every older one was over. */
  readonly xmin: number;
  /** The first transaction that had not begun. */
  readonly xmax: number;
  /** The transactions from xmin to xmax that were running. */
  readonly running: ReadonlySet<number>;

  constructor(fields: SnapshotFields) {
    const [xmin, xmax, running] = fields.text.split(':');
    this.text = fields.text;
    this.server = fields.server;
    this.lsn = fields.lsn;
    this.flushedLsn = fields.flushedLsn;
    this.takenAt = fields.takenAt;
    this.receivedAt = fields.receivedAt;
    this.xmin = Number(xmin);
    this.xmax = Number(xmax);
    this.running = new Set(running ? running.split(',').map(Number) : []);
  }

  /** True when the transaction was over at that moment. If it committed, its rows are visible in the snapshot. */
  covers(xid: number): boolean {
    return xid < this.xmin || (xid < this.xmax && !this.running.has(xid));
  }

  with(changes: Partial<SnapshotFields>): Snapshot {
    return new Snapshot({ ...this, ...changes });
  }
}

/** A primary's timeline, as a column. */
export const TIMELINE = `('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int`;

const COLUMNS = `
  pg_current_snapshot()::text,
  (pg_control_system()).system_identifier::text,
  CASE WHEN pg_is_in_recovery()
    THEN greatest((pg_control_checkpoint()).timeline_id, (pg_control_recovery()).min_recovery_end_timeline)
    ELSE ${TIMELINE}
  END,
  ${STARTED_AT},
  pg_is_in_recovery(),
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END - '0/0'::pg_lsn,
  CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn`;

type Row = [
  text: string,
  systemIdentifier: string,
  timeline: number,
  startedAt: string,
  standby: boolean,
  lsn: string,
  flushedLsn: string,
];

/**
 * Takes a snapshot that a crash can't undo: when this resolves, the WAL is on disk up to everything that the snapshot
 * covers.
 *
 * A transaction that is rolled back, or that only notifies, ends without a flush. A crash before the WAL is written forgets
 * it and gives its number to a new one, whose rows a cursor at such a snapshot would skip. So where some of the WAL is not on disk yet, the statement that takes the snapshot writes a message of a few bytes
 * into it, and its own commit flushes everything before that. There is no moment in between for a crash.
 *
 * (`||` is there to make both calls run; `local` flushes without waiting for standbys, whatever the role's setting is.)
 */
export function takeDurableSnapshot(query: Query): Promise<Snapshot> {
  return take(
    query,
    `SELECT ${COLUMNS},
       CASE WHEN NOT pg_is_in_recovery() THEN
         CASE WHEN pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn() THEN
           set_config('synchronous_commit', 'local', true) || pg_logical_emit_message(true, 'pg_signals', 'flush')::text
         END
       END`,
    [],
  );
}

/**
 * Takes a snapshot and notifies a channel after it: the snapshot is that of the statement, the notification leaves at its
 * commit. Whoever receives it has received all that the snapshot covers before it.
 */
export function takeSnapshotAndNotify(query: Query, channel: string, payload: string): Promise<Snapshot> {
  return take(query, `SELECT ${COLUMNS}, pg_notify($1, $2)`, [channel, payload]);
}

async function take(query: Query, sql: string, values: unknown[]): Promise<Snapshot> {
  const takenAt = performance.now();
  const [row] = await query<Row>(sql, values);
  const [text, systemIdentifier, timeline, startedAt, standby, lsn, flushedLsn] = row!;
  return new Snapshot({
    text,
    server: { systemIdentifier, timeline, startedAt, standby },
    lsn: BigInt(lsn),
    flushedLsn: BigInt(flushedLsn),
    takenAt,
    receivedAt: performance.now(),
  });
}
