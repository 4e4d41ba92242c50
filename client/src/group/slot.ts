/** A broadcast replica that remembers: whoever takes its slot goes on where it stood. */
import type { Signal } from '@pg-signals/db';
import type { Pool } from 'pg';
import { callAll } from '../listen/dispatcher.ts';
import type { SignalCallback } from '../listen/listener.ts';
import type { Lag } from './admin/lag.ts';
import { Engine } from './engine.ts';
import { expireSlots, joinSlot } from './joinSlot.ts';
import type { MemberLagOptions } from './memberLag.ts';
import { type GroupOptions, listenerOptions, type MemberOptions, memberOptions } from './options.ts';

/** As long as a timer can be: a callback has no time limit. */
const NO_LIMIT_MS = 2 ** 31 - 1;
/** Signals between two checkpoints, by default: every 1,000 would cost a replica that logs 60,000 a second half as much again. */
const CHECKPOINT_ROWS = 10_000;
/** A replica looks for expired slots so many times in the time that they have. */
const LOOKS = 4;
/** Between two such looks, in ms. */
const [LOOK_MIN_MS, LOOK_MAX_MS] = [1_000, 3_600_000];
/** A slot's name, `prefix-1`, has room for 63 characters. */
const PREFIX = /^[A-Za-z0-9_.:-]{1,52}$/;
const WORDS = {
  label: 'slot',
  taken: 'Holds a slot',
  left: 'Left the slot',
  lost: 'Lost its slot, taking one again',
  failed: 'Holds no slot, trying again',
} as const;

export interface SlotOptions
  extends Omit<GroupOptions, 'name' | 'from' | 'lanes' | 'order' | 'timeoutMs' | 'retries' | 'feed'> {
  /** Slots are called `prefix-1`, `prefix-2`, … (`consumer`). */
  prefix?: string;
  /** For how long a slot that no replica holds is kept, in ms (an hour). */
  ttlMs?: number;
}

/**
 * Delivers every signal to each callback, as a `Listener` does, from where the slot stood: a replica takes the lowest slot that
 * none holds, or a new one that begins now. So replicas are interchangeable, and what is committed while they restart is not lost.
 *
 * - While the process runs and keeps its slot, each signal comes once, whatever happens to connections or the server; after a
 *   failover, what came since the last checkpoint comes again.
 * - A stop in order stores where it stood, and repeats nothing. What a replica that was killed had delivered since its last
 *   checkpoint comes again to the one that takes its slot.
 * - A callback that fails is logged; the signal counts as delivered.
 */
export class Slot {
  readonly #engine: Engine<Signal>;
  readonly #options: MemberOptions<Signal>;
  readonly #ttlMs: number;
  readonly #expire: () => Promise<void>;

  /** @throws {RangeError} for an option that can't be, or a pool of fewer than 3 connections. */
  constructor(
    pool: Pool,
    { prefix = 'consumer', ttlMs = 3_600_000, ...given }: SlotOptions,
    ...callbacks: SignalCallback[]
  ) {
    if (!PREFIX.test(prefix)) {
      throw new RangeError(`prefix: expected 1 to 52 letters, digits and _.:-, got ${JSON.stringify(prefix)}`);
    }
    const group = {
      checkpointRows: CHECKPOINT_ROWS,
      ...given,
      name: prefix,
      lanes: 1,
      retries: 0,
      timeoutMs: NO_LIMIT_MS,
    };
    const options = { ...memberOptions<Signal>(pool, group), words: WORDS };
    this.#options = options;
    this.#ttlMs = ttlMs;
    const identity = { prefix, feed: options.feed.table };
    this.#engine = new Engine({
      pool,
      options,
      listener: listenerOptions(group),
      handler: (signal) => callAll(callbacks, signal, (error) => this.#failed(signal, error)),
      join: async (membership, past) => {
        if (!past) await this.#expire(); // first: what has expired is not to be taken
        return joinSlot(identity, membership, past);
      },
    });
    this.#expire = async () => {
      for (const slot of await expireSlots(pool, identity, ttlMs, options.proofTimeoutMs)) {
        if (slot.signals === 0) options.logger.info('A slot has expired', { ...slot });
        else options.logger.warn('A slot has expired, and its signals are given up', { ...slot });
      }
    };
  }

  /** The slot that is held; empty before the first. */
  get name(): string {
    return this.#engine.name;
  }

  /** Everything committed longer ago than this, in ms, has been received; undefined before that. */
  get proofAgeMs(): number | undefined {
    return this.#engine.proofAgeMs;
  }

  /** Signals that the callbacks work on. */
  get inFlight(): number {
    return this.#engine.inFlight;
  }

  /**
   * How many signals are to be delivered yet; undefined while it holds no slot, and where the table is gone.
   *
   * @throws what `withConnection` throws.
   */
  lag(options?: MemberLagOptions): Promise<Lag | undefined> {
    return this.#engine.lag(options);
  }

  /** Delivers until `signal` aborts. Resolves when no callback is at work, where it stood is stored, and the slot is free. */
  async start(signal: AbortSignal): Promise<void> {
    const expire = () => this.#expire().catch(() => {}); // the next look may succeed
    const everyMs = Math.min(Math.max(this.#ttlMs / LOOKS, LOOK_MIN_MS), LOOK_MAX_MS);
    const timer = setInterval(expire, everyMs);
    try {
      await this.#engine.start(signal);
    } finally {
      clearInterval(timer);
    }
  }

  #failed({ id }: Signal, error: unknown): void {
    const { logger, observer } = this.#options;
    observer.callbackFailed?.();
    logger.error('Callback failed, going on', { id, error });
  }
}
