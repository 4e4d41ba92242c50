/** A member's place in its group, as the database has it: joined, renewed with each checkpoint, given up. */
import { createQuery, NoAnswerError, type Query, withConnection } from '@pg-signals/db';
import type { Pool, PoolClient } from 'pg';
import { STARTED_AT, TIMELINE } from '../listen/snapshot.ts';
import { quota, takeLanes } from './assignment.ts';
import type { StoredCursor } from './storedCursor.ts';

/** Notified with a group's name whenever lanes come free, or rows are to be run again. */
export const GROUPS_CHANNEL = 'signals_groups';

/** The member was given up: its lease ended, or the group was reset. What it does changes nothing any more. */
export class LostMembershipError extends Error {
  override name = 'LostMembershipError';
}

/** The server was started since the position was taken: what it had not on disk may be gone. Nothing was stored of it. */
export class RestartedError extends Error {
  override name = 'RestartedError';
}

/** What a checkpoint stores. */
export interface Position {
  readonly cursors: readonly StoredCursor[];
  readonly inFlight: number;
  /** The start of the server on which the cursors mean something; undefined for any. */
  readonly startedAt: string | undefined;
}

/** The connection was lost before the COMMIT was sent: nothing was done. */
export class NotCommittedError extends Error {
  override name = 'NotCommittedError';
}

/** The server takes no writes: it may be promoted, or the address may lead to the primary again. */
export class StandbyError extends Error {
  override name = 'StandbyError';
  override message = 'groups and slots need the primary, and this server is a standby';
}

const READ_ONLY_TRANSACTION = '25006';
const FEATURE_NOT_SUPPORTED = '0A000'; // of READ WRITE, on a standby

export interface MembershipOptions {
  pool: Pool;
  query: Query;
  timeoutMs: number;
  leaseMs: number;
  /** How the member is called in `npm run groups`. */
  member: string;
  /** The server's process behind the listening connection. */
  backend: () => number | undefined;
}

/** A group, as a member has found it. */
export interface JoinedGroup {
  readonly id: string;
  readonly name: string;
  readonly lanes: number;
  readonly epoch: number;
  readonly startedAt: string;
  readonly timeline: number;
}

/** What a look at the group has shown. */
export interface GroupView {
  readonly members: readonly { readonly epoch: number; readonly lanes: number; readonly leaseMs: number }[];
  readonly free: number;
}

type Jsonb = StoredCursor[];

export class Membership {
  readonly groupId: string;
  readonly name: string;
  readonly epoch: number;
  /** `STARTED_AT` of the server on which the membership was seen last. */
  startedAt: string;
  /** The server's, as it was when it was joined: what was delivered on it may be lost on the next one. */
  readonly timeline: number;
  readonly #options: MembershipOptions;
  /** The count of writes of the member's row that the database has confirmed, and that of the last one sent. */
  #confirmed = 0;
  #sent = 0;

  readonly #lanes: number;
  #storedBackend: number | undefined;

  constructor(options: MembershipOptions, { id, name, lanes, epoch, startedAt, timeline }: JoinedGroup) {
    this.#options = options;
    this.groupId = id;
    this.name = name;
    this.epoch = epoch;
    this.startedAt = startedAt;
    this.timeline = timeline;
    this.#lanes = lanes;
  }

  /** How the member is called: no other membership has this name. */
  get member(): string {
    return this.#options.member;
  }

  /** True where the database knows the listening connection. */
  get isBackendStored(): boolean {
    return this.#options.backend() === this.#storedBackend;
  }

  /** Who shares the group now. @throws {LostMembershipError} */
  async look(): Promise<GroupView> {
    const members = await this.#options.query<[epoch: number, lanes: number, leaseMs: number, free: number]>(
      `SELECT member.epoch::int, coalesce((SELECT sum(jsonb_array_length(cursor -> 'lanes')) FROM jsonb_array_elements(member.cursors) AS cursor), 0)::int,
         1000 * extract(epoch FROM lease_until - clock_timestamp())::float8,
         coalesce((SELECT sum(jsonb_array_length(cursor -> 'lanes')) FROM jsonb_array_elements(signal_groups.free) AS cursor), 0)::int
       FROM public.signal_group_members AS member
       JOIN public.signal_groups ON id = group_id
       WHERE group_id = $1
       ORDER BY member.epoch`,
      [this.groupId],
    );
    if (!members.some(([epoch]) => epoch === this.epoch)) throw this.#lost();
    return {
      members: members.map(([epoch, lanes, leaseMs]) => ({ epoch, lanes, leaseMs })),
      free: members[0]![3],
    };
  }

  /**
   * Stores the cursors and renews the lease: one update of one row, which does nothing where the membership is lost.
   *
   * @throws {LostMembershipError}
   * @throws {RestartedError} where the lease is renewed, and no cursor is stored.
   */
  async store(position: Position): Promise<void> {
    const confirm = await this.#store((sql, values) => this.#options.query<[string]>(sql, values), position);
    confirm();
    this.#requireStart(position);
  }

  /** The same within a transaction, which it commits: both are done, or neither. */
  async storeWith(client: PoolClient, position: Position, commit: () => Promise<void>): Promise<void> {
    let startedAt: string | undefined;
    const run = async (sql: string, values: unknown[]) => {
      const stored = await rows<[string]>(client, sql, values);
      startedAt = stored[0]?.[0];
      return stored;
    };
    const confirm = await this.#store(run, position);
    this.#requireStart(position, startedAt);
    await commit();
    confirm();
  }

  /** In one transaction with what `work` writes. */
  async storeAlong(position: Position, work: (client: PoolClient) => Promise<unknown>): Promise<void> {
    const { pool, timeoutMs } = this.#options;
    await inTransaction(pool, timeoutMs, async (client, commit) => {
      await work(client); // first: whoever moves lanes locks the group's row before the member's, too
      await this.storeWith(client, position, commit);
    });
  }

  #requireStart(position: Position, startedAt: string | undefined = this.startedAt): void {
    if (position.startedAt === undefined || position.startedAt === startedAt) return;
    throw new RestartedError('the server was restarted');
  }

  async #store(
    run: (sql: string, values: unknown[]) => Promise<[string][]>,
    { cursors, inFlight, startedAt }: Position,
  ): Promise<() => void> {
    const count = ++this.#sent;
    const backend = this.#options.backend();
    // A checkpoint whose answer was lost may have been stored or not. On another timeline the cursors mean nothing.
    const stored = await run(
      `UPDATE public.signal_group_members
       SET cursors = CASE WHEN $10::text IS NULL OR $10 = ${STARTED_AT} THEN $5::jsonb ELSE cursors END,
         stored = $4, in_flight = $7, backend = $8, lease_until = clock_timestamp() + $6 * interval '1 ms'
       WHERE group_id = $1 AND epoch = $2 AND stored >= $3 AND stored < $4 AND ${TIMELINE} = $9
       RETURNING ${STARTED_AT}`,
      [
        this.groupId,
        this.epoch,
        this.#confirmed,
        count,
        JSON.stringify(cursors),
        this.#options.leaseMs,
        inFlight,
        backend ?? null,
        this.timeline,
        startedAt ?? null,
      ],
    );
    if (stored.length === 0) throw this.#lost();
    return () => {
      this.#confirmed = count;
      this.#storedBackend = backend;
      this.startedAt = stored[0]![0];
    };
  }

  /**
   * Takes free lanes, and those of members that were given up, up to this member's share. Their epoch is higher than that of any
   * owner before.
   */
  async take(): Promise<{ cursors: StoredCursor[]; epoch: number }> {
    return this.#move(async (client, free, cursors) => {
      const members = await rows<[epoch: number, expired: boolean]>(
        client,
        `SELECT epoch::int, lease_until < clock_timestamp() FROM public.signal_group_members WHERE group_id = $1 ORDER BY epoch`,
        [this.groupId],
      );
      const expired = members.filter(([epoch, over]) => over && epoch !== this.epoch).map(([epoch]) => epoch);
      const given = await giveUp(client, this.groupId, expired);
      const alive = members.map(([epoch]) => epoch).filter((epoch) => !given.epochs.includes(epoch));
      const owned = cursors.reduce((sum, { lanes }) => sum + lanes.length, 0);
      const all = [...free, ...given.cursors];
      const { taken, left } = takeLanes(all, quota(this.#lanes, alive, this.epoch) - owned);
      await this.#update(client, left, [...cursors, ...taken]);
      const [next] = await rows<[number]>(
        client,
        'UPDATE public.signal_groups SET epoch = epoch + 1 WHERE id = $1 RETURNING epoch::int',
        [this.groupId],
      );
      return { cursors: taken, epoch: next![0] };
    });
  }

  /** Gives lanes back: `kept` stays this member's. */
  async give(kept: readonly StoredCursor[], released: readonly StoredCursor[]): Promise<void> {
    await this.#move(async (client, free) => {
      await this.#update(client, [...free, ...released], kept);
      await client.query('SELECT pg_notify($1, $2)', [GROUPS_CHANNEL, this.name]);
    });
  }

  /** Gives everything back, and leaves. */
  async leave(released: readonly StoredCursor[]): Promise<void> {
    await this.#move(async (client, free) => {
      await client.query('DELETE FROM public.signal_group_members WHERE group_id = $1 AND epoch = $2', [
        this.groupId,
        this.epoch,
      ]);
      await client.query(
        `UPDATE public.signal_groups
         SET free = $2,
           left_at = CASE WHEN NOT EXISTS (SELECT FROM public.signal_group_members WHERE group_id = $1) THEN clock_timestamp() END
         WHERE id = $1`,
        [this.groupId, JSON.stringify([...free, ...released])],
      );
      await client.query('SELECT pg_notify($1, $2)', [GROUPS_CHANNEL, this.name]);
    });
  }

  /** A transaction that holds the group's row: whoever moves lanes does so. */
  async #move<T>(work: (client: PoolClient, free: Jsonb, cursors: Jsonb) => Promise<T>): Promise<T> {
    const { pool, timeoutMs } = this.#options;
    const moved = await inTransaction(pool, timeoutMs, async (client) => {
      const [group] = await rows<[Jsonb]>(client, 'SELECT free FROM public.signal_groups WHERE id = $1 FOR UPDATE', [
        this.groupId,
      ]);
      const [mine] = await rows<[Jsonb]>(
        client,
        `SELECT cursors FROM public.signal_group_members WHERE group_id = $1 AND epoch = $2 AND stored >= $3 AND ${TIMELINE} = $4 FOR UPDATE`,
        [this.groupId, this.epoch, this.#confirmed, this.timeline],
      );
      if (!group || !mine) throw this.#lost();
      return work(client, group[0], mine[0]);
    });
    this.#confirmed = this.#sent;
    return moved;
  }

  /** Counts as a checkpoint does: one that is late must not undo it, and a server that lacks it must be told from one that has it. */
  async #update(client: PoolClient, free: readonly StoredCursor[], cursors: readonly StoredCursor[]): Promise<void> {
    await client.query('UPDATE public.signal_groups SET free = $2 WHERE id = $1', [this.groupId, JSON.stringify(free)]);
    await client.query(
      `UPDATE public.signal_group_members
       SET cursors = $3, stored = $5, lease_until = clock_timestamp() + $4 * interval '1 ms'
       WHERE group_id = $1 AND epoch = $2`,
      [this.groupId, this.epoch, JSON.stringify(cursors), this.#options.leaseMs, ++this.#sent],
    );
  }

  #lost(): LostMembershipError {
    return new LostMembershipError('the lease had ended, the group was reset, or another server has taken over');
  }
}

/** Removes members, except those whose row is in use, and those whose lease holds. Their cursors are anyone's then. */
async function giveUp(
  client: PoolClient,
  groupId: string,
  epochs: readonly number[],
): Promise<{ epochs: number[]; cursors: StoredCursor[] }> {
  if (epochs.length === 0) return { epochs: [], cursors: [] };
  // A member that was frozen in the middle of a transaction holds its row: its lanes are taken when the server has ended that.
  const removed = await rows<[epoch: number, cursors: Jsonb]>(
    client,
    `DELETE FROM public.signal_group_members
     WHERE group_id = $1 AND epoch IN (
       SELECT epoch
       FROM public.signal_group_members
       WHERE group_id = $1 AND epoch = ANY ($2) AND lease_until < clock_timestamp()
       FOR UPDATE SKIP LOCKED
     )
     RETURNING epoch::int, cursors`,
    [groupId, epochs],
  );
  const cursors = removed.flatMap(([, each]) => each).map((cursor) => ({ ...cursor, unclean: true as const }));
  return { epochs: removed.map(([epoch]) => epoch), cursors };
}

/**
 * Runs `work` in a transaction, which is rolled back where it throws. It ends with `commit`, or after `work`.
 *
 * @throws what `work` throws; a `NoAnswerError` where the connection was lost at the COMMIT, and a `NotCommittedError` where it
 *   was lost before that.
 */
export async function inTransaction<T>(
  pool: Pool,
  timeoutMs: number,
  work: (client: PoolClient, commit: () => Promise<void>) => Promise<T>,
): Promise<T> {
  let isCommitting = false;
  const transaction = async (client: PoolClient) => {
    // A process that is frozen here holds locks that others wait for: the server ends its transaction.
    const begin = client.query(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
      SET LOCAL idle_in_transaction_session_timeout = ${timeoutMs}`);
    const begun = await begin.catch((error: Error & { code?: string }) => {
      if (error.code !== FEATURE_NOT_SUPPORTED) throw error;
    });
    if (!begun) return { error: new StandbyError() };
    const commit = async () => {
      if (isCommitting) return;
      isCommitting = true;
      await client.query('COMMIT');
    };
    try {
      const value = await work(client, commit);
      await commit();
      return { value };
    } catch (error) {
      await client.query('ROLLBACK'); // rejects where the connection is lost
      return { error };
    }
  };
  const outcome = await withConnection(pool, timeoutMs, transaction).catch((error) => {
    if (isCommitting || !(error instanceof NoAnswerError)) throw error;
    throw new NotCommittedError(error.message, { cause: error });
  });
  if ('error' in outcome) throw outcome.error;
  return outcome.value as T;
}

/** `createQuery` for statements that write, also where `default_transaction_read_only` is on. */
export function createWritingQuery(pool: Pool, defaultTimeoutMs: number): Query {
  const query = createQuery(pool, defaultTimeoutMs);
  return <Row extends unknown[]>(text: string, values: unknown[] = [], timeoutMs = defaultTimeoutMs) =>
    query<Row>(text, values, timeoutMs).catch((error: Error & { code?: string }) => {
      if (error.code !== READ_ONLY_TRANSACTION) throw error;
      return inTransaction(pool, timeoutMs, (client) => rows<Row>(client, text, values));
    });
}

/** The rows of a query, each an array of its columns. */
export async function rows<Row extends unknown[]>(client: PoolClient, text: string, values: unknown[]): Promise<Row[]> {
  return (await client.query<Row>({ text, values, rowMode: 'array' })).rows;
}
