/** After a failover: decides whether a cursor still means something on the server that answers now, or where to go back to. */
import type { Query } from '@pg-signals/db';
import { type Reader, readRows } from './committedRows.ts';
import { Cursor, type SameRow, type Witness } from './cursor.ts';
import type { FeedRow, FeedTable } from './feedTable.ts';
import { requireServer, type Server, type Snapshot, STARTED_AT } from './snapshot.ts';

/** How far back snapshots are kept, and how densely. */
const HISTORY_STEP_MS = 10_000;
const HISTORY_LENGTH = 360; // an hour

/** A delivered row of each of those, of 8,000 bytes at most: none is left out. */
const WITNESSES_BYTES = 16 * 2 ** 20;

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
/** Where a cursor stood. */
type Stand = Pick<Cursor, 'snapshot' | 'witness'>;

export interface FailoverOptions {
  query: Query;
  table: FeedTable<FeedRow>;
  isSame: SameRow;
  readTimeoutMs: number;
}

export class Failover {
  readonly #options: FailoverOptions;
  /** Where the cursor stood in the last hour, the oldest first. */
  #history: Stand[] = [];

  constructor(options: FailoverOptions) {
    this.#options = options;
  }

  /** @param cursor at a durable snapshot of which everything was delivered. */
  remember({ snapshot, witness }: Cursor): void {
    const last = this.#history.at(-1)?.snapshot;
    if (last && snapshot.takenAt - last.takenAt < HISTORY_STEP_MS) return;
    this.#history.push({ snapshot, witness });
    if (this.#history.length > HISTORY_LENGTH) this.#history.shift();
  }

  /**
   * Undefined where the cursor holds on the server of `now`, as it is; otherwise one to go on with instead.
   *
   * @param reading the durable snapshot that an unfinished read goes to: it covers all that was delivered before the read.
   */
  async check(cursor: Cursor, reading: Snapshot | undefined, now: Snapshot): Promise<MovedCursor | undefined> {
    const reached = reading ?? cursor.snapshot;
    const known: Stand[] = [...this.#history, cursor];
    const fate = await this.#fateOf(reached, now);
    if (fate.is === 'same') {
      if (now.server.standby || now.server.startedAt === reached.server.startedAt) return undefined;
      return this.#goBackFromCopy(known, now);
    }
    const { fork } = fate.is === 'forked' ? fate : {};
    if (reading && fork !== undefined && reading.lsn <= fork) return undefined;
    const shared = known.filter(({ snapshot }) => fork !== undefined && snapshot.lsn <= fork);
    // Where the fork is unknown, the oldest snapshot is the best guess; where it lies before all of them, none holds.
    const safe = shared.at(-1) ?? (fate.is === 'forked' && fork === undefined ? known[0] : undefined);
    const why = fate.is === 'other' ? 'it is another database cluster' : 'it lacks all that was delivered';
    // The new server may lack what the old one delivered beyond the safe snapshot, and give its numbers out again.
    const repeats = reading || safe?.snapshot !== cursor.snapshot || cursor.size > 0;
    const moved = this.#goBackTo(safe, shared, now, why);
    return repeats ? moved : { ...moved, reason: undefined };
  }

  /**
   * A server that was started again may stand on an older copy of its data, and its WAL may have grown past the old place
   * since. Then ids that were delivered have other rows now. A row that is gone proves nothing: it may have been deleted.
   */
  async #goBackFromCopy(known: readonly Stand[], now: Snapshot): Promise<MovedCursor | undefined> {
    const { query, table, readTimeoutMs: timeoutMs } = this.#options;
    const reader: Reader = { query, table, server: now.server, timeoutMs };
    const seen = known.filter(({ witness }) => witness);
    const rows = await readRows(
      reader,
      seen.map(({ witness }) => ({ id: witness!.id })),
      WITNESSES_BYTES,
    );
    const intact = new Map(seen.map((stand, at) => [stand, this.#isIntact(stand.witness!, rows[at]!.payload)]));
    const changed = known.findIndex((stand) => intact.get(stand) === false);
    if (changed < 0) return undefined;
    const shared = known.slice(0, changed);
    const safe = shared.findLastIndex((stand) => intact.get(stand) === true);
    return this.#goBackTo(shared[safe], shared.slice(0, safe + 1), now, 'it is an older copy of the one before');
  }

  /** Undefined where that can't be told. */
  #isIntact(witness: Witness, payload: string | undefined): boolean | undefined {
    if (payload === undefined) return undefined;
    const { table, isSame } = this.#options;
    const [seen, now] = [table.parse(witness.payload), table.parse(payload)];
    return 'truncated' in seen ? seen.xid === now.xid : isSame(witness.payload, payload);
  }

  #goBackTo(safe: Stand | undefined, shared: readonly Stand[], now: Snapshot, why: string): MovedCursor {
    this.#history = shared.slice(0, HISTORY_LENGTH);
    if (!safe) {
      return {
        cursor: new Cursor(now.with({ text: FIRST_SNAPSHOT, lsn: 0n })),
        reason: `${why}: reading its table from the start`,
      };
    }
    const { snapshot, witness } = safe;
    const age = Math.round((performance.now() - snapshot.takenAt) / 1_000);
    // From here on the new server's WAL counts, however far the old one's had come.
    const lsn = snapshot.lsn < now.lsn ? snapshot.lsn : now.lsn;
    return {
      cursor: new Cursor(snapshot.with({ server: now.server, lsn }), witness),
      reason: `it may lack what the old one committed last: reading again from ${age} s ago`,
    };
  }

  /** @param then a durable snapshot. */
  async #fateOf({ server: then, lsn, xmax }: Snapshot, now: Snapshot): Promise<Fate> {
    const { server } = now;
    if (server.systemIdentifier !== then.systemIdentifier) return { is: 'other' };
    // A standby promoted in place has lost nothing of what it showed itself.
    if (server.startedAt === then.startedAt) return { is: 'same' };
    // On one timeline WAL and transactions only grow: less of them is an older copy, or a standby that lags behind.
    const hasGrown = now.lsn >= lsn && now.xmax >= xmax;
    if (server.timeline === then.timeline && (server.standby || hasGrown)) return { is: 'same' };
    return { is: 'forked', fork: await this.#forkOf(then, server) };
  }

  /** The end of the WAL that the two servers share, in bytes; undefined where it is unknown (the file is for superusers). */
  async #forkOf(then: Server, now: Server): Promise<bigint | undefined> {
    if (now.timeline <= then.timeline) return undefined;
    const name = `pg_wal/${now.timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
    // Each line: the timeline that was left, where, and why.
    const sql = `
      SELECT ${STARTED_AT}, (
        SELECT (line[2]::pg_lsn - '0/0'::pg_lsn)::text
        FROM regexp_matches(pg_read_file($1), '^(\\d+)\\s+([0-9A-F]+/[0-9A-F]+)', 'gn') AS line
        WHERE line[1]::int = $2
        LIMIT 1
      )`;
    try {
      const [row] = await this.#options.query<[string, string | null]>(sql, [name, then.timeline]);
      const [startedAt, fork] = row!;
      requireServer(now, startedAt);
      return fork === null ? undefined : BigInt(fork);
    } catch (error) {
      // 42501: no privilege to read it; 58P01: there is no such file. Anything else may succeed at the next attempt.
      const { code, cause } = error as { code?: string; cause?: { code?: string } };
      if (/^(42501|58P01)$/.test(code ?? cause?.code ?? '')) return undefined;
      throw error;
    }
  }
}
