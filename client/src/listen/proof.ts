/** Proves that notifications arrive: a marker sent through another connection must come back on the one that listens. */
import { randomBytes } from 'node:crypto';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Query } from '@pg-signals/db';
import { type Snapshot, takeSnapshotAndNotify } from './snapshot.ts';

/** The marker did not come back in time. */
export class ProofError extends Error {
  override name = 'ProofError';
}

/** A connection that still receives something has so many timeouts to answer: what it receives may be a backlog. */
const PATIENCE = 12;

/** A notification of our own: everything that its snapshot covers has come before it. */
export interface Marker {
  /** When it was sent, by `performance.now()`. */
  readonly sentAt: number;
  /** Resolves when the proof is complete; rejects where it fails. The marker may come back before its query is answered. */
  readonly snapshot: Promise<Snapshot>;
}

export interface ProverOptions {
  /** On another connection than the one that listens. */
  query: Query;
  timeoutMs: number;
  /** Resolves with the answer to a query on the connection that listens. */
  ping: () => Promise<unknown>;
  /** Counts what came on the connection. */
  receivedSoFar: () => number;
  /** Is called when a marker comes back, at its place among the notifications. */
  onMarker: (marker: Marker) => void;
}

/**
 * PostgreSQL delivers notifications in the order of their commits, in one queue for all channels. A marker sent after a
 * snapshot was taken therefore arrives after everything that the snapshot covers; when it has, the snapshot is proved.
 *
 * Before a server answers a query it sends the notifications that were committed until then. So a query on the connection that
 * listens, sent after the marker was committed, tells a marker that is late from one that will never come: no marker before
 * the answer, and the connection leads to another server than the one that we write to, or to one that no longer listens for us.
 *
 * The channel is this connection's own, so that no other listener gets a marker.
 */
export class Prover {
  readonly channel = `pg_signals_proof_${randomBytes(8).toString('hex')}`;
  readonly #options: ProverOptions;
  #sequence = 0;
  #awaited: { payload: string; marker: Marker } | undefined;
  #running: Promise<unknown> = Promise.resolve();
  #queued: Promise<void> | undefined;

  constructor(options: ProverOptions) {
    this.#options = options;
  }

  /** For each notification on our channel. */
  receive(payload: string): void {
    if (this.#awaited?.payload !== payload) return; // one that came too late, or anyone's NOTIFY
    const { marker } = this.#awaited;
    this.#awaited = undefined;
    this.#options.onMarker(marker);
  }

  /**
   * One round trip, begun after the call: a proof that is running is waited for, and those who wait together share the next.
   *
   * @throws {ProofError} when the marker did not come back, or the connection does not answer in time; other errors when the
   *   marker could not be sent.
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
    const proved = Promise.withResolvers<Snapshot>();
    proved.promise.catch(() => {}); // who waits for it depends on the feed
    this.#awaited = { payload, marker: { sentAt: performance.now(), snapshot: proved.promise } };
    try {
      const snapshot = await takeSnapshotAndNotify(this.#options.query, this.channel, payload);
      await this.#inTime(this.#options.ping());
      if (this.#awaited) throw new ProofError('the connection answers, but no marker came back on it');
      proved.resolve(snapshot);
    } catch (error) {
      this.#awaited = undefined;
      proved.reject(error);
      throw error;
    }
  }

  /** Waits for the answer. Fails when a whole timeout has passed with nothing received, or `PATIENCE` of them. */
  async #inTime(answer: Promise<unknown>): Promise<void> {
    const { timeoutMs, receivedSoFar } = this.#options;
    let answered = false;
    const done = answer.then(() => {
      answered = true;
    });
    let received = -1;
    for (let timeouts = 0; !answered; timeouts++) {
      if (received === receivedSoFar() || timeouts === PATIENCE) {
        throw new ProofError(`the connection did not answer within ${timeouts * timeoutMs} ms`);
      }
      received = receivedSoFar();
      const timer = Promise.withResolvers<void>();
      const timeout = setTimeout(timer.resolve, timeoutMs);
      await Promise.race([done, timer.promise]);
      clearTimeout(timeout);
      // A callback that blocked this process makes the timer late and the socket unread: read it before judging.
      if (!answered) await nextTurn().then(() => nextTurn());
    }
  }
}
