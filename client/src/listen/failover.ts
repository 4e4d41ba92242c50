/** After a failover: decides whether a cursor still means something on the server that answers now, or where to go back to. */
import type { Query } from '@pg-signals/db';
import { Cursor } from './cursor.ts';
import type { Server, Snapshot } from './snapshot.ts';

/** How far back snapshots are kept, and how densely. */
const HISTORY_STEP_MS = 10_000;
const HISTORY_LENGTH = 360; // an hour

/** Before every transaction: 3 is the first that a cluster gives out. */
const FIRST_SNAPSHOT = '3:3:';

/**
 * What became of the server that a snapshot was taken on:
 *
 * - `same`: it is the one that answers now, perhaps restarted, or a standby of it, or that standby promoted in place.
 * - `forked`: the one that answers now was a standby of it and has been promoted. Both share the WAL up to `fork`;
 *   undefined where that is unknown.
 * - `other`: the one that answers now has another history altogether.
 */
type Fate = { is: 'same' } | { is: 'forked'; fork: bigint | undefined } | { is: 'other' };

/** A cursor that holds on the new server. `reason` is there where some rows may come twice. */
export interface MovedCursor {
  readonly cursor: Cursor;
  readonly reason: string | undefined;
}

/**
 * A snapshot counts transactions, and a standby that was promoted may lack the last of them and give their numbers out
 * again: a row behind such a number would be taken for one that was delivered. So before resuming from a snapshot, this asks
 * which server answers.
 */
export class Failover {
  readonly #query: Query;
  /** Snapshots of the last hour that a cursor stood at, the oldest first. */
  #history: Snapshot[] = [];

  constructor(query: Query) {
    this.#query = query;
  }

  /** @param snapshot a durable one of which everything was delivered. */
  remember(snapshot: Snapshot): void {
    const last = this.#history.at(-1);
    if (last && snapshot.takenAt - last.takenAt < HISTORY_STEP_MS) return;
    this.#history.push(snapshot);
    if (this.#history.length > HISTORY_LENGTH) this.#history.shift();
  }

  /**
   * Undefined where the cursor holds on the server of `now`, as it is; otherwise one to go on with instead.
   *
   * @param reading the durable snapshot that an unfinished read goes to: it covers all that was delivered before the read.
   */
  async check(cursor: Cursor, reading: Snapshot | undefined, now: Snapshot): Promise<MovedCursor | undefined> {
    const reached = reading ?? cursor.snapshot;
    const fate = await this.#fateOf(reached, now);
    if (fate.is === 'same') return undefined;
    const { fork } = fate.is === 'forked' ? fate : {};
    if (reading && fork !== undefined && reading.lsn <= fork) return undefined;
    const known = [...this.#history, cursor.snapshot];
    const shared = known.filter(({ lsn }) => fork !== undefined && lsn <= fork);
    this.#history = shared.slice(0, HISTORY_LENGTH);
    // Where the fork is unknown, the oldest snapshot is the best guess; where it lies before all of them, none holds.
    const safe = shared.at(-1) ?? (fate.is === 'forked' && fork === undefined ? known[0] : undefined);
    if (!safe) {
      const whose = fate.is === 'other' ? 'it is another database cluster' : 'it lacks all that was delivered';
      return {
        cursor: new Cursor(now.with({ text: FIRST_SNAPSHOT, lsn: 0n })),
        reason: `${whose}: reading its table from the start`,
      };
    }
    // The new server may lack what the old one delivered beyond the safe snapshot, and give its numbers out again.
    const repeats = reading || safe !== cursor.snapshot || cursor.size > 0;
    const age = Math.round((performance.now() - safe.takenAt) / 1_000);
    // From here on the new server's WAL counts, however far the old one's had come.
    const lsn = safe.lsn < now.lsn ? safe.lsn : now.lsn;
    return {
      cursor: new Cursor(safe.with({ server: now.server, lsn })),
      reason: repeats ? `it may lack what the old one committed last: reading again from ${age} s ago` : undefined,
    };
  }

  /** @param then a durable snapshot. */
  async #fateOf({ server: then, lsn }: Snapshot, now: Snapshot): Promise<Fate> {
    const { server } = now;
    if (server.systemIdentifier !== then.systemIdentifier) return { is: 'other' };
    // A standby promoted in place has lost nothing of what it showed itself.
    if (server.startedAt === then.startedAt) return { is: 'same' };
    // On one timeline the WAL only grows: a shorter one is that of an older copy, or of a standby that lags behind.
    if (server.timeline === then.timeline && (server.standby || now.lsn >= lsn)) return { is: 'same' };
    return { is: 'forked', fork: await this.#forkOf(then, server) };
  }

  /** The end of the WAL that the two servers share, in bytes; undefined where it is unknown (the file is for superusers). */
  async #forkOf(then: Server, now: Server): Promise<bigint | undefined> {
    if (now.timeline <= then.timeline) return undefined;
    const name = `pg_wal/${now.timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
    // Each line: the timeline that was left, where, and why.
    const sql = `
      SELECT (line[2]::pg_lsn - '0/0'::pg_lsn)::text
      FROM regexp_matches(pg_read_file($1), '^(\\d+)\\s+([0-9A-F]+/[0-9A-F]+)', 'gn') AS line
      WHERE line[1]::int = $2`;
    try {
      const [row] = await this.#query<[string]>(sql, [name, then.timeline]);
      return row && BigInt(row[0]);
    } catch (error) {
      // 42501: no privilege to read it; 58P01: there is no such file. Anything else may succeed at the next attempt.
      const { code, cause } = error as { code?: string; cause?: { code?: string } };
      if (/^(42501|58P01)$/.test(code ?? cause?.code ?? '')) return undefined;
      throw error;
    }
  }
}
