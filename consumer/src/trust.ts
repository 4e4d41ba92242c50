/** Decides whether a position still means something on the server that we are connected to now. */
import type { Query } from './database.ts';
import type { Position, Server } from './position.ts';

/** How far back positions are kept for a failover, and how densely. */
const HISTORY_STEP_MS = 10_000;
const HISTORY_LENGTH = 360; // an hour

/**
 * What became of the server that a position was taken on:
 *
 * - `same`: it is the one that answers now, perhaps restarted.
 * - `forked`: the one that answers now was a standby of it and has been promoted. Both have the log up to `fork`; where
 *   that is undefined, it can't be told.
 * - `other`: the one that answers now has another history altogether.
 */
export type Fate = { is: 'same' } | { is: 'forked'; fork: bigint | undefined } | { is: 'other' };

/** The positions of the last hour, the first one always among them. */
export class PositionHistory {
  #positions: Position[] = [];

  add(position: Position): void {
    const last = this.#positions.at(-1);
    if (last && position.takenAt - last.takenAt < HISTORY_STEP_MS) return;
    this.#positions.push(position);
    if (this.#positions.length > HISTORY_LENGTH) this.#positions.shift();
  }

  /** The newest one that a server which left `timeline` at `fork` has in common with us; the oldest where none is known. */
  before(timeline: number, fork: bigint | undefined): Position | undefined {
    const common = this.#positions.filter(
      ({ server, lsn }) => server.timeline <= timeline && fork !== undefined && lsn <= fork,
    );
    return common.at(-1) ?? this.#positions[0];
  }
}

/**
 * A snapshot counts transactions, and a standby that was promoted may lack the last of them and give their numbers out
 * again: a row behind such a number would be taken for one that was delivered. So whoever holds a position asks first.
 */
export async function fateOf(query: Query, { server: then, flushedLsn }: Position, now: Position): Promise<Fate> {
  const { server } = now;
  if (server.systemIdentifier !== then.systemIdentifier) return { is: 'other' };
  // A standby promoted in place has lost nothing of what it showed itself.
  if (server.startedAt === then.startedAt) return { is: 'same' };
  // A log that ends before what was on disk then is that of an older copy.
  if (server.timeline === then.timeline && (server.standby || now.lsn >= flushedLsn)) return { is: 'same' };
  return { is: 'forked', fork: await forkOf(query, then, server) };
}

/** The end of the log that the two servers share, in bytes; undefined where it can't be told (the file is for superusers). */
async function forkOf(query: Query, then: Server, now: Server): Promise<bigint | undefined> {
  if (now.timeline <= then.timeline) return undefined;
  const name = `pg_wal/${now.timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
  // Each line: the timeline that was left, where, and why.
  const sql = `
    SELECT (line[2]::pg_lsn - '0/0'::pg_lsn)::text
    FROM regexp_matches(pg_read_file($1), '^(\\d+)\\s+([0-9A-F]+/[0-9A-F]+)', 'gn') AS line
    WHERE line[1]::int = $2`;
  const rows = await query<[string]>(sql, [name, then.timeline]).catch(() => []);
  return rows[0] && BigInt(rows[0][0]);
}
