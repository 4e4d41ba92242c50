/** Decides whether a position still means something on the server that we are connected to now. */
import type { Query } from './database.ts';
import type { Position, Server } from './position.ts';

/** How far back positions are kept for a failover, and how densely. */
const HISTORY_STEP_MS = 10_000;
const HISTORY_LENGTH = 360; // an hour

/** Where to resume, and why not from the position that was asked about. */
export interface Verdict {
  readonly resumeFrom: Position;
  /** Undefined where the position can be trusted: then nothing is skipped and nothing repeated. */
  readonly distrust: string | undefined;
}

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
 * again: a row behind such a number would be taken for one that was delivered. So a position is trusted on the server
 * process that it came from, on its primary after a restart, and on a promoted standby that had received all of the log
 * up to it; else the consumer goes back to a position from before the two parted, and repeats rather than skips.
 */
export async function judge(
  query: Query,
  position: Position,
  now: Position,
  history: PositionHistory,
): Promise<Verdict> {
  const { server: then, lsn } = position;
  const server = now.server;
  if (server.systemIdentifier !== then.systemIdentifier) {
    return {
      resumeFrom: { ...now, snapshot: '3:3:', lsn: 0n }, // 3 is the first transaction of any cluster
      distrust: `this is another database cluster (system identifier ${server.systemIdentifier}, was ${then.systemIdentifier}): reading its table from the start`,
    };
  }
  const sameProcess = server.startedAt === then.startedAt;
  if (sameProcess || (server.timeline === then.timeline && (server.standby || now.lsn >= position.flushedLsn))) {
    return { resumeFrom: position, distrust: undefined };
  }
  const fork = await forkOf(query, then, server);
  if (fork !== undefined && fork >= lsn) return { resumeFrom: position, distrust: undefined };
  const safe = history.before(then.timeline, fork) ?? position;
  return {
    // What counts from here on is this server's log, however far the old one's had come.
    resumeFrom: { ...safe, server, lsn: 0n },
    distrust: `the server changed (timeline ${server.timeline}, was ${then.timeline}) and may lack what the old one had committed last: reading again from ${Math.round((performance.now() - safe.takenAt) / 1000)} s ago`,
  };
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
