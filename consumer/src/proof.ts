/** Proves that what is notified reaches us: a marker sent through another connection must come back on the listening one. */
import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Query } from './database.ts';
import { type Position, takePositionAndNotify } from './position.ts';

/** The marker did not come by the deadline. */
export class ProofError extends Error {
  override name = 'ProofError';
}

/** Is told of every proof of a connection; all calls come in this order, `arrived` at the marker's place in the queue. */
export interface ProofObserver {
  /** A position is about to be asked for. */
  begun(): void;
  /** The marker came: everything that the position sees has come before it. */
  arrived(sentAt: number): void;
  /** The position that is proved now. */
  proved(position: Position): void;
  /** The marker did not come. */
  abandoned(): void;
}

/**
 * Notifications arrive in the order of their commits, one queue for all channels. A marker sent after a snapshot was
 * taken therefore arrives after everything that the snapshot sees; when it has, the snapshot is proved.
 *
 * The channel is this connection's own, so that no other listener ever gets a marker.
 */
export class Prover {
  readonly channel = `pg_signals_proof_${randomBytes(8).toString('hex')}`;
  readonly #observers: ReadonlySet<ProofObserver>;
  readonly #query: Query;
  readonly #deadlineMs: number;
  /** Counts what came on the connection: while anything does, the marker may still be behind it. */
  readonly #receivedSoFar: () => number;
  #sequence = 0;
  #awaited: { payload: string; sentAt: number; arrived: () => void } | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(options: {
    observers: ReadonlySet<ProofObserver>;
    query: Query;
    deadlineMs: number;
    receivedSoFar: () => number;
  }) {
    this.#observers = options.observers;
    this.#query = options.query;
    this.#deadlineMs = options.deadlineMs;
    this.#receivedSoFar = options.receivedSoFar;
  }

  /** For each notification on our channel. */
  receive(payload: string): void {
    if (this.#awaited?.payload !== payload) return; // an abandoned one, or anyone's NOTIFY
    const { sentAt, arrived } = this.#awaited;
    this.#awaited = undefined;
    for (const observer of this.#observers) observer.arrived(sentAt);
    arrived();
  }

  /**
   * One round trip, begun after the call (one that is under way is waited for first).
   *
   * @throws {ProofError} when the marker did not come by the deadline; other errors when it could not be sent.
   */
  prove(): Promise<Position> {
    const proof = this.#last.then(() => this.#once());
    this.#last = proof.catch(() => {});
    return proof;
  }

  async #once(): Promise<Position> {
    const payload = String(++this.#sequence);
    const marker = Promise.withResolvers<void>();
    for (const observer of this.#observers) observer.begun();
    this.#awaited = { payload, sentAt: performance.now(), arrived: marker.resolve };
    try {
      const position = await takePositionAndNotify(this.#query, this.channel, payload);
      await this.#byDeadline(marker.promise);
      for (const observer of this.#observers) observer.proved(position);
      return position;
    } catch (error) {
      this.#awaited = undefined;
      for (const observer of this.#observers) observer.abandoned();
      throw error;
    }
  }

  /** Waits for the marker as long as it takes while the connection brings other notifications, else to the deadline. */
  async #byDeadline(marker: Promise<void>): Promise<void> {
    let arrived = false;
    const done = marker.then(() => {
      arrived = true;
    });
    for (let received = -1; !arrived; ) {
      if (received === this.#receivedSoFar()) throw new ProofError(`no marker came back within ${this.#deadlineMs} ms`);
      received = this.#receivedSoFar();
      const timer = Promise.withResolvers<void>();
      const timeout = setTimeout(timer.resolve, this.#deadlineMs);
      await Promise.race([done, timer.promise]);
      clearTimeout(timeout);
      // A callback that blocked this process makes the timer late and the socket unread: read it before judging.
      if (!arrived) await nextTurn().then(() => nextTurn());
    }
  }
}
