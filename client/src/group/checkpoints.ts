/** Stores a member's cursors, often enough, and knows until when its lease holds. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { PoolClient } from 'pg';
import { LostMembershipError, type Membership, type Position, RestartedError } from './membership.ts';

/** Rows are handled beyond the last checkpoint up to so many times `rows`: then the handler waits for the next one. */
const UNSTORED_FACTOR = 4;
/** A lease is renewed so many times before it ends. */
const RENEWALS = 3;
/** A checkpoint waits for a proof so long at most, in ms: with one it has fewer rows to name. */
const PROOF_WAIT_MS = 100;

/** At most so many rows were handled beyond what is stored. */
export const unstoredMax = (checkpointRows: number): number => UNSTORED_FACTOR * checkpointRows;

export interface CheckpointsOptions {
  membership: Membership;
  /** When the lease was asked for, by `performance.now()`. */
  joinedAt: number;
  leaseMs: number;
  everyMs: number;
  everyRows: number;
  /** Where the cursors stand now, leaving out rows that are not handled except these. */
  position: (besides?: ReadonlySet<number>) => Position;
  /** Called when a position was not stored because the server was restarted: the next one has to be one that it has on disk. */
  onRestarted: () => void;
  flush: (() => Promise<unknown> | undefined) | undefined;
  /** Resolves with the next proof, which is asked for if need be; undefined where none would help. */
  prove: (isAsked: boolean) => Promise<void> | undefined;
  /** Called when `storeAt` may be earlier than before. */
  onDue: () => void;
}

export class Checkpoints {
  readonly #options: CheckpointsOptions;
  /** Rows that were handled since the last checkpoint. */
  #unstored = 0;
  #leaseUntil: number;
  #storeAt: number;
  #stored = Promise.withResolvers<void>();
  #full = Promise.withResolvers<void>();
  #writing: Promise<unknown> = Promise.resolve();
  #isOver = false;

  constructor(options: CheckpointsOptions) {
    this.#options = options;
    this.#leaseUntil = options.joinedAt + options.leaseMs;
    this.#storeAt = options.joinedAt + options.leaseMs / RENEWALS;
  }

  get isOver(): boolean {
    return this.#isOver;
  }

  /** When the next one is to be stored, by `performance.now()`. */
  get storeAt(): number {
    return this.#storeAt;
  }

  /** Others may take the lanes: nothing may be begun before the lease is renewed. */
  get isLeaseOver(): boolean {
    return performance.now() > this.#leaseUntil;
  }

  /** Nothing more may be handled before the next checkpoint. */
  get isFull(): boolean {
    return this.#unstored >= unstoredMax(this.#options.everyRows);
  }

  /** A row was handled. True where a checkpoint has become due: the event loop should have a turn, so that it gets on its way. */
  count(): boolean {
    const { everyMs, everyRows } = this.#options;
    this.#unstored++;
    if (this.#unstored === 1) this.#dueAt(performance.now() + everyMs);
    if (this.#unstored % everyRows > 0) return false;
    this.#dueAt(0);
    return true;
  }

  #dueAt(at: number): void {
    if (at >= this.#storeAt) return;
    this.#storeAt = at;
    this.#options.onDue();
  }

  /** Resolves when there is room, with a lease that holds; false where the membership has ended before. */
  async whenFree(): Promise<boolean> {
    this.#full.resolve();
    this.#full = Promise.withResolvers();
    this.#dueAt(0);
    while (!this.#isOver && (this.isFull || this.isLeaseOver)) await this.#stored.promise;
    return !this.#isOver;
  }

  /** The lease and the cursors in one statement. @throws {LostMembershipError} */
  async store(): Promise<void> {
    const { membership, everyRows, flush, position, prove } = this.#options;
    const mayWait = this.#unstored > 0 && !this.isFull && !this.isLeaseOver;
    // Where many rows come, a proof is on its way by itself.
    const proved = mayWait ? prove(this.#unstored < everyRows) : undefined;
    if (proved) await Promise.race([proved, this.#full.promise, sleep(PROOF_WAIT_MS, undefined, { ref: false })]);
    const storeNow = async () => {
      const count = this.#unstored;
      const now = position();
      await flush?.();
      const sentAt = performance.now();
      await membership.store(now);
      this.#onStored(count, sentAt);
    };
    await this.write(() => storeNow().catch((error) => this.#orRestarted(error, storeNow)));
  }

  #orRestarted(error: unknown, again: () => Promise<void>): Promise<void> {
    if (!(error instanceof RestartedError)) throw error;
    this.#options.onRestarted();
    return again();
  }

  /** Stores within a transaction that these rows are handled, and commits it. */
  async storeWith(client: PoolClient, rows: ReadonlySet<number>, commit: () => Promise<void>): Promise<void> {
    await this.#storeIn(rows, (position) => this.#options.membership.storeWith(client, position, commit));
  }

  /** Stores that these rows are handled, in one transaction with what `work` writes. */
  async storeAlong(rows: ReadonlySet<number>, work: (client: PoolClient) => Promise<unknown>): Promise<void> {
    await this.#storeIn(rows, async (position) => {
      await this.#options.flush?.();
      await this.#options.membership.storeAlong(position, work);
    });
  }

  async #storeIn(rows: ReadonlySet<number>, store: (position: Position) => Promise<void>): Promise<void> {
    await this.write(async () => {
      const count = this.#unstored;
      const { onRestarted, position, prove } = this.#options;
      const sentAt = performance.now();
      await store(position(rows)).catch((error) => {
        if (error instanceof RestartedError) onRestarted();
        throw error;
      });
      this.#onStored(count, sentAt);
      prove(true); // so that the next one has fewer rows to name
    });
  }

  #onStored(count: number, sentAt: number): void {
    const { leaseMs, everyMs, everyRows } = this.#options;
    this.#unstored -= count;
    this.#leaseUntil = sentAt + leaseMs;
    const isSoon = this.#unstored > 0;
    this.#storeAt = this.#unstored >= everyRows ? 0 : sentAt + (isSoon ? everyMs : leaseMs / RENEWALS);
    this.#release();
  }

  /**
   * One write of the member's row at a time.
   *
   * @throws {LostMembershipError} where the membership has ended: cursors that are gone would be stored as no lanes at all.
   */
  write<T>(work: () => Promise<T>): Promise<T> {
    const written = this.#writing.then(() => {
      if (this.#isOver) throw new LostMembershipError('the membership has ended');
      return work();
    });
    this.#writing = written.catch(() => {});
    return written;
  }

  /** The membership has ended. */
  end(): void {
    this.#isOver = true;
    this.#release();
  }

  #release(): void {
    this.#stored.resolve();
    this.#stored = Promise.withResolvers();
  }
}
