/** A consumer group: members share the signals of a table, each signal is handled by one of them, and none is lost between them. */
import type { Signal } from '@pg-signals/db';
import type { Pool } from 'pg';
import type { FeedRow } from '../listen/feedTable.ts';
import type { Lag } from './admin/lag.ts';
import { Engine } from './engine.ts';
import { joinGroup } from './joinGroup.ts';
import type { AnyHandler } from './member.ts';
import type { MemberLagOptions } from './memberLag.ts';
import { type GroupOptions, listenerOptions, memberOptions } from './options.ts';

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
  readonly #engine: Engine<Row>;

  /** @throws {RangeError} for an option that can't be, or a pool of fewer than 3 connections. */
  constructor(pool: Pool, given: GroupOptions<Row>, handler: AnyHandler<Row>) {
    const options = memberOptions(pool, given);
    const { name, feed, lanes, order, from } = options;
    const identity = { name, feed: feed.table, lanes, order, from };
    this.#engine = new Engine({
      pool,
      options,
      listener: listenerOptions(given),
      handler,
      join: (membership, past) => joinGroup(identity, membership, past?.membership),
    });
  }

  /** Everything committed longer ago than this, in ms, was delivered to this member, of its lanes; undefined before that. */
  get proofAgeMs(): number | undefined {
    return this.#engine.proofAgeMs;
  }

  /** Rows that are being handled, or wait for their turn. */
  get inFlight(): number {
    return this.#engine.inFlight;
  }

  /** How many lanes this member owns. */
  get laneCount(): number {
    return this.#engine.laneCount;
  }

  /** False before it has joined, and from the loss of its membership until it has joined again. */
  get isMember(): boolean {
    return this.#engine.isMember;
  }

  /**
   * How far its lanes are behind now; undefined while it is no member, and where the table is gone.
   *
   * @throws what `withConnection` throws.
   */
  lag(options?: MemberLagOptions): Promise<Lag | undefined> {
    return this.#engine.lag(options);
  }

  /**
   * Takes part until `signal` aborts. Resolves when no handler runs any more, the last checkpoint is stored, and the lanes are the
   * others'. A lost connection, server or membership is made up for, forever.
   *
   * @throws {GroupMismatchError} where the group was made with another table, order or number of lanes.
   */
  start(signal: AbortSignal): Promise<void> {
    return this.#engine.start(signal);
  }
}
