/** Keeps a process a member of a group, or of a slot, on one listener: joins, and joins again where the membership is lost. */
import { randomBytes } from 'node:crypto';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, type Query } from '@pg-signals/db';
import type { Pool } from 'pg';
import type { Feed } from '../listen/feed.ts';
import type { FeedRow } from '../listen/feedTable.ts';
import { type FeedShared, Listener, type ListenerOptions } from '../listen/listener.ts';
import type { Deliver, Reading } from '../listen/reading.ts';
import type { Lag } from './admin/lag.ts';
import { GroupMismatchError } from './joinGroup.ts';
import type { Past } from './joinSlot.ts';
import { type AnyHandler, Member } from './member.ts';
import { type MemberLagOptions, memberLag } from './memberLag.ts';
import {
  createWritingQuery,
  GROUPS_CHANNEL,
  LostMembershipError,
  type Membership,
  type MembershipOptions,
} from './membership.ts';
import type { MemberOptions } from './options.ts';

export interface EngineOptions<Row extends FeedRow> {
  pool: Pool;
  options: MemberOptions<Row>;
  listener: ListenerOptions;
  handler: AnyHandler<Row>;
  /** Makes this process a member. */
  join: (options: MembershipOptions, past: Past | undefined) => Promise<Membership>;
}

export class Engine<Row extends FeedRow> {
  readonly #options: MemberOptions<Row>;
  readonly #pool: Pool;
  readonly #query: Query;
  readonly #handler: AnyHandler<Row>;
  readonly #listener: Listener;
  readonly #feed: Feed<Row>;
  #shared!: FeedShared<Row>;
  #deliver!: Deliver;
  #member: Member<Row> | undefined;
  #name = '';
  readonly #joinAs: EngineOptions<Row>['join'];

  constructor({ pool, options, listener, handler, join }: EngineOptions<Row>) {
    this.#pool = pool;
    this.#options = options;
    this.#query = createWritingQuery(pool, options.proofTimeoutMs);
    this.#handler = handler;
    this.#joinAs = join;
    this.#listener = new Listener(pool, { proofEvery: options.checkpointRows, ...listener });
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
      if (name === this.#name) this.#member?.look();
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

  /** The group's name, or the slot's; empty before the first membership. */
  get name(): string {
    return this.#name;
  }

  /** How many lanes this member owns. */
  get laneCount(): number {
    return this.#member?.reading.lanes.length ?? 0;
  }

  get isMember(): boolean {
    return this.#member !== undefined;
  }

  /** As `Group.lag`. */
  async lag(options?: MemberLagOptions): Promise<Lag | undefined> {
    const member = this.#member;
    if (!member) return undefined;
    const { feed, lanes, order = null } = this.#options;
    const { kept } = member.reading.stored(member.handling.unfinished);
    return memberLag(this.#pool, { feed: feed.table, lanes, order }, kept, options);
  }

  /** As `Group.start`. */
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
    let past: Past | undefined;
    for (let attempt = 1; !signal.aborted; attempt++) {
      const joinedAt = performance.now();
      try {
        const membership = await this.#join(past);
        this.#name = membership.name;
        const member = this.#newMember(membership, joinedAt);
        this.#member = member;
        await member.run(signal).finally(() => {
          past = { membership, cursors: member.stoodAt };
        });
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

  #join(past: Past | undefined): Promise<Membership> {
    const { leaseMs, proofTimeoutMs: timeoutMs } = this.#options;
    const member = `${hostname()}:${process.pid}:${randomBytes(3).toString('hex')}`;
    const backend = () => this.#listener.backend;
    return this.#joinAs({ pool: this.#pool, query: this.#query, timeoutMs, leaseMs, member, backend }, past);
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

  #report(error: Error, delay: number, attempt: number): void {
    const { logger, name, words } = this.#options;
    const message = error instanceof LostMembershipError ? words.lost : words.failed;
    logger.warn(message, { [words.label]: this.#name || name, reason: error.message, delay_ms: delay, attempt });
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
