/** A consumer group: members share the signals of a table, each signal is handled by one of them, and none is lost between them. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, createQuery, type Query, type Signal } from '@pg-signals/db';
import type { Pool } from 'pg';
import type { Feed } from '../listen/feed.ts';
import type { FeedRow } from '../listen/feedTable.ts';
import { type FeedShared, Listener } from '../listen/listener.ts';
import type { Deliver, Reading } from '../listen/reading.ts';
import { type AnyHandler, Member } from './member.ts';
import { GROUPS_CHANNEL, GroupMismatchError, LostMembershipError, Membership } from './membership.ts';
import { type GroupOptions, listenerOptions, type MemberOptions, memberOptions } from './options.ts';

const READ_ONLY_TRANSACTION = '25006';

/**
 * One member of a group. Each signal is handled by one member, at least once, and none is skipped, whatever happens to members,
 * connections or the server.
 *
 * - A member that ends in order hands its lanes over at once, and repeats nothing. From one that is killed the others take them
 *   when its lease is over; what it has handled since its last checkpoint comes again: what came in `checkpointMs` or
 *   `checkpointRows` rows, whichever is less, and while that checkpoint was on its way (4 times `checkpointRows` at most).
 * - A handler that throws, rejects or takes longer than `timeoutMs` is run again later, others meanwhile; after `retries` more
 *   runs the row is in the table `dead_letters`.
 * - Without `order`, rows are handled in about the order of their commits. With it, rows of one key are handled one after
 *   another, in the order in which `Listener` delivers them; one that fails holds up its key and no other.
 * - With `handleBatch` the handler's own writes and the checkpoint are one transaction: exactly once.
 */
export class Group<Row extends FeedRow = Signal> {
  readonly #options: MemberOptions<Row>;
  readonly #pool: Pool;
  readonly #query: Query;
  readonly #handler: AnyHandler<Row>;
  readonly #listener: Listener;
  readonly #feed: Feed<Row>;
  #shared!: FeedShared<Row>;
  #deliver!: Deliver;
  #member: Member<Row> | undefined;

  /** @throws {RangeError} for an option that can't be, or a pool of fewer than 3 connections. */
  constructor(pool: Pool, options: GroupOptions<Row>, handler: AnyHandler<Row>) {
    this.#options = memberOptions(pool, options);
    this.#pool = pool;
    this.#query = createQuery(pool, this.#options.proofTimeoutMs);
    this.#handler = handler;
    this.#listener = new Listener(pool, listenerOptions(options));
    this.#feed = this.#listener.attach(this.#options.feed, (shared) => {
      this.#shared = shared;
      return {
        dispatcher: {
          deliver: (row) => this.#member?.deliver(row),
          idle: async () => this.#member?.handling.idle(),
        },
        reading: (deliver) => {
          this.#deliver = deliver;
          return this.#reading;
        },
      };
    });
    this.#listener.addListener(GROUPS_CHANNEL, (name) => {
      if (name === this.#options.name) this.#member?.look();
    });
  }

  /** Everything committed longer ago than this, in ms, was delivered to this member, of its lanes; undefined before that. */
  get proofAgeMs(): number | undefined {
    return this.#member?.reading.isLevel ? this.#listener.proofAgeMs : undefined;
  }

  /** Rows that are being handled, or wait for their turn. */
  get inFlight(): number {
    return this.#member?.handling.unfinished.length ?? 0;
  }

  /** How many lanes this member owns. */
  get laneCount(): number {
    return this.#member?.reading.lanes.length ?? 0;
  }

  /**
   * Takes part until `signal` aborts. Resolves when no handler runs any more, the last checkpoint is stored, and the lanes are the
   * others'. A lost connection, server or membership is made up for, forever.
   *
   * @throws {GroupMismatchError} where the group was made with another table, order or number of lanes.
   */
  async start(signal: AbortSignal): Promise<void> {
    const stop = new AbortController();
    const listened = this.#listener.start(stop.signal);
    try {
      await this.#takePart(signal);
    } finally {
      stop.abort();
      await listened;
    }
  }

  async #takePart(signal: AbortSignal): Promise<void> {
    const { leaseMs } = this.#options;
    let replaced: number | undefined;
    for (let attempt = 1; !signal.aborted; attempt++) {
      const joinedAt = performance.now();
      try {
        const membership = await this.#join(replaced);
        replaced = membership.epoch;
        this.#member = this.#newMember(membership, joinedAt);
        await this.#member.run(signal);
      } catch (error) {
        if (error instanceof GroupMismatchError) throw error;
        if (signal.aborted) break;
        if (performance.now() - joinedAt > leaseMs) attempt = 1;
        const delay = backoff(attempt);
        this.#report(error as Error, delay, attempt + 1);
        await sleep(delay, undefined, { signal }).catch(() => {});
      } finally {
        this.#member = undefined;
      }
    }
  }

  #join(replaced: number | undefined): Promise<Membership> {
    const { name, order, lanes, from, leaseMs, proofTimeoutMs: timeoutMs, feed } = this.#options;
    const member = `${hostname()}:${process.pid}:${randomBytes(3).toString('hex')}`;
    const connection = { pool: this.#pool, query: this.#query, timeoutMs };
    return Membership.join({ ...connection, name, feed: feed.table, lanes, order, from, leaseMs, member }, replaced);
  }

  #newMember(membership: Membership, joinedAt: number): Member<Row> {
    return new Member<Row>({
      pool: this.#pool,
      query: this.#query,
      options: this.#options,
      membership,
      joinedAt,
      handler: this.#handler,
      readTimeoutMs: this.#shared.readTimeoutMs,
      deliver: this.#deliver,
      readAgain: () => this.#feed.readAgain(),
      prove: () => this.#listener.prove(),
    });
  }

  #report(error: Error & { code?: string }, delay: number, attempt: number): void {
    const { logger, name } = this.#options;
    const isReadOnly = error.code === READ_ONLY_TRANSACTION;
    const reason = isReadOnly ? 'a group needs the primary, and this server is a standby' : error.message;
    const isLost = error instanceof LostMembershipError;
    const message = isLost ? 'Lost its lanes, joining the group again' : 'Not in the group, joining again';
    logger.warn(message, { group: name, reason, delay_ms: delay, attempt });
  }

  /** What the feed reads: the lanes of the present member. Without one, everything is dropped: the next one reads it. */
  readonly #reading: Reading = {
    begin() {}, // the cursors are in the database
    readTo: async (to, ended) => (await this.#member?.reading.readTo(to, ended)) ?? !ended.aborted,
    wasRead: (xid) => this.#member!.reading.wasRead(xid),
    mayBeWanted: (payload) => this.#member?.reading.mayBeWanted(payload) ?? false,
    isWanted: (row) => this.#member?.reading.isWanted(row) ?? false,
    record: (xid, id, payload) => this.#member!.reading.record(xid, id, payload),
    prove: (snapshot) => this.#member?.reading.prove(snapshot),
  };
}
