/** Proves that notifications arrive: a marker sent through another connection must come back on the one that listens. */
import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Query } from '@pg-signals/db';
import { type Snapshot, takeSnapshotAndNotify } from './snapshot.ts';

/** The marker did not come back in time. */
export class ProofError extends Error {
  override name = 'ProofError';
}

/** A notification of our own: everything that its snapshot covers has come before it. */
export interface Marker {
  /** When it was sent, by `performance.now()`. */
  readonly sentAt: number;
  /** Resolves when the proof is complete; rejects where it fails. The marker may come back before its query is answered. */
  readonly snapshot: Promise<Snapshot>;
}

/**
 * PostgreSQL delivers notifications in the order of their commits, in one queue for all channels. A marker sent after a
 * snapshot was taken therefore arrives after everything that the snapshot covers; when it has, the snapshot is proved.
 *
 * The channel is this connection's own, so that no other listener gets a marker.
 */
export class Prover {
  readonly channel = `pg_signals_proof_${randomBytes(8).toString('hex')}`;
  readonly #query: Query;
  readonly #timeoutMs: number;
  /** Counts what came on the connection: while anything does, the marker may still be behind it. */
  readonly #receivedSoFar: () => number;
  readonly #onMarker: (marker: Marker) => void;
  #sequence = 0;
  #awaited: { payload: string; marker: Marker; arrived: () => void } | undefined;
  #running: Promise<unknown> = Promise.resolve();
  #queued: Promise<void> | undefined;

  /** @param options `onMarker` is called when a marker comes back, at its place among the notifications. */
  constructor(options: {
    query: Query;
    timeoutMs: number;
    receivedSoFar: () => number;
    onMarker: (marker: Marker) => void;
  }) {
    this.#query = options.query;
    this.#timeoutMs = options.timeoutMs;
    this.#receivedSoFar = options.receivedSoFar;
    this.#onMarker = options.onMarker;
  }

  /** For each notification on our channel. */
  receive(payload: string): void {
    if (this.#awaited?.payload !== payload) return; // one that came too late, or anyone's NOTIFY
    const { marker, arrived } = this.#awaited;
    this.#awaited = undefined;
    this.#onMarker(marker);
    arrived();
  }

  /**
   * One round trip, begun after the call: a proof that is running is waited for, and those who wait together share the next.
   *
   * @throws {ProofError} when the marker did not come back in time; other errors when it could not be sent.
   */
  prove(): Promise<void> {
    this.#queued ??= this.#running.then(() => {
      this.#queued = undefined;
      const proof = this.#proveOnce();
      this.#running = proof.catch(() => {});
      return proof;
    });
    return this.#queued;
  }

  async #proveOnce(): Promise<void> {
    const payload = String(++this.#sequence);
    const arrival = Promise.withResolvers<void>();
    const proved = Promise.withResolvers<Snapshot>();
    proved.promise.catch(() => {}); // who waits for it depends on the feed
    const marker = { sentAt: performance.now(), snapshot: proved.promise };
    this.#awaited = { payload, marker, arrived: arrival.resolve };
    try {
      const snapshot = await takeSnapshotAndNotify(this.#query, this.channel, payload);
      await this.#inTime(arrival.promise);
      proved.resolve(snapshot);
    } catch (error) {
      this.#awaited = undefined;
      proved.reject(error);
      throw error;
    }
  }

  /** Waits for the marker. Fails when a whole timeout has passed with nothing received. */
  async #inTime(arrival: Promise<void>): Promise<void> {
    let arrived = false;
    const done = arrival.then(() => {
      arrived = true;
    });
    for (let received = -1; !arrived; ) {
      if (received === this.#receivedSoFar()) throw new ProofError(`no marker came back within ${this.#timeoutMs} ms`);
      received = this.#receivedSoFar();
      const timer = Promise.withResolvers<void>();
      const timeout = setTimeout(timer.resolve, this.#timeoutMs);
      await Promise.race([done, timer.promise]);
      clearTimeout(timeout);
      // A callback that blocked this process makes the timer late and the socket unread: read it before judging.
      if (!arrived) await nextTurn().then(() => nextTurn());
    }
  }
}
