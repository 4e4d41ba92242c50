/** Decides whether a cursor still means something on the server that answers now, and where to go back to if not. */
import type { Query } from '@pg-signals/db';
import type { Server, Snapshot } from './snapshot.ts';

/** How far back snapshots are kept for a failover, and how densely. */
const HISTORY_STEP_MS = 10_000;
const HISTORY_LENGTH = 360; // an hour

/**
 * What became of the server that a snapshot was taken on:
 *
 * - `same`: it is the one that answers now, perhaps restarted, or a standby of it, or that standby promoted in place.
 * - `forked`: the one that answers now was a standby of it and has been promoted. Both share the WAL up to `fork`;
 *   undefined where that is unknown.
 * - `other`: the one that answers now has another history altogether.
 */
export type Fate = { is: 'same' } | { is: 'forked'; fork: bigint | undefined } | { is: 'other' };

/**
 * A snapshot counts transactions, and a standby that was promoted may lack the last of them and give their numbers out
 * again: a row behind such a number would be taken for one that was delivered. So whoever resumes from a snapshot asks
 * first.
 *
 * @param then a durable snapshot.
 */
export async function fateOf(query: Query, { server: then, lsn }: Snapshot, now: Snapshot): Promise<Fate> {
  const { server } = now;
  if (server.systemIdentifier !== then.systemIdentifier) return { is: 'other' };
  // A standby promoted in place has lost nothing of what it showed itself.
  if (server.startedAt === then.startedAt) return { is: 'same' };
  // A WAL that ends before what was on disk then is that of an older copy.
  if (server.timeline === then.timeline && (server.standby || now.lsn >= lsn)) return { is: 'same' };
  return { is: 'forked', fork: await forkOf(query, then, server) };
}

/** The end of the WAL that the two servers share, in bytes; undefined where it is unknown (the file is for superusers). */
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

/** Proved snapshots of the last hour. */
export class SnapshotHistory {
  #snapshots: Snapshot[] = [];

  add(snapshot: Snapshot): void {
    const last = this.#snapshots.at(-1);
    if (last && snapshot.takenAt - last.takenAt < HISTORY_STEP_MS) return;
    this.#snapshots.push(snapshot);
    if (this.#snapshots.length > HISTORY_LENGTH) this.#snapshots.shift();
  }

  /**
   * The newest snapshot, of these and of `latest` (the newest first), that a server which left `timeline` at `fork` shares;
   * the oldest one where no such is known.
   */
  before(timeline: number, fork: bigint | undefined, latest: readonly [Snapshot, ...Snapshot[]]): Snapshot {
    const known = [...latest, ...this.#snapshots.toReversed()];
    const shared = known.find(({ server, lsn }) => server.timeline <= timeline && fork !== undefined && lsn <= fork);
    return shared ?? known.at(-1)!;
  }
}
