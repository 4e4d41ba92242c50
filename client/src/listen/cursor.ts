/** Where to resume: a snapshot, and the rows delivered beyond it. So resuming neither skips nor repeats. */
import type { Snapshot } from './snapshot.ts';

/** A row as it was delivered: where the table has another one under its id, the table is not the one that was read. */
export interface Witness {
  readonly id: number;
  readonly payload: string;
}

export class Cursor {
  #snapshot: Snapshot;
  #witness: Witness | undefined;
  /** Proved, but not yet known to be on disk, so not yet safe to resume from. */
  #pending: Snapshot | undefined;
  /** The rows delivered that the snapshot does not cover: three arrays, not one of objects, since each row adds to them. */
  readonly #xids: number[] = [];
  readonly #ids: number[] = [];
  readonly #payloads: (string | undefined)[] = [];
  /** So many of them, the first, were delivered by the moment `#countedAt`, in `performance.now()`. */
  #counted = 0;
  #countedAt = 0;

  /** @param snapshot a durable one: from here on every commit counts. */
  constructor(snapshot: Snapshot, witness?: Witness) {
    this.#snapshot = snapshot;
    this.#witness = witness;
  }

  /** One of the last rows that the snapshot covers; undefined where none was delivered. */
  get witness(): Witness | undefined {
    return this.#witness;
  }

  /** Everything that it covers was delivered, and no crash of its server can undo it. */
  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /** How many rows were delivered beyond the snapshot. */
  get size(): number {
    return this.#ids.length;
  }

  /** @param payload what was notified; undefined for a row that was read from the table. */
  record(xid: number, id: number, payload?: string): void {
    this.#xids.push(xid);
    this.#ids.push(id);
    this.#payloads.push(payload);
  }

  /** The rows delivered beyond the snapshot, in the order of delivery. */
  *rows(): Generator<[xid: number, id: number, payload: string | undefined]> {
    for (const [at, xid] of this.#xids.entries()) yield [xid, this.#ids[at]!, this.#payloads[at]];
  }

  /** The same as a set, as they are now. */
  delivered(isSame: SameRow): DeliveredRows {
    const rows = new DeliveredRows(isSame);
    for (const row of this.rows()) rows.add(...row);
    return rows;
  }

  /**
   * A proof says that everything in `snapshot` was delivered.
   *
   * It becomes the one to resume from when this or a later proof finds the WAL on disk up to it. Both came through one
   * connection, and a crash would have ended that, so no crash lies between them. Only one snapshot waits, the oldest: under
   * a steady load the newest is never on disk yet, and replacing the one that waits would mean waiting forever. A proof that
   * was begun before the latest catch-up changes nothing.
   *
   * What was delivered before this snapshot was asked for had committed by then, so the snapshot covers it. What it does not
   * cover was forged, and is forgotten, since no proof would ever cover it. (A marker may be delivered long after its snapshot
   * was taken, where callbacks are slow: rows that were delivered since may be real and not covered.)
   */
  prove(snapshot: Snapshot): void {
    if (snapshot.takenAt < this.#snapshot.receivedAt) return;
    const isLater = snapshot.takenAt > this.#countedAt;
    if (isLater) this.#keep((xid, at) => at >= this.#counted || snapshot.covers(xid));
    const durable = [snapshot, this.#pending].find((proved) => proved && proved.lsn <= snapshot.flushedLsn);
    if (durable) this.moveTo(durable);
    if (durable !== snapshot) this.#pending ??= snapshot;
    if (isLater) [this.#counted, this.#countedAt] = [this.size, performance.now()];
  }

  /** Everything that a durable snapshot covers was delivered, this row the last of it. */
  moveTo(snapshot: Snapshot, last?: Witness): void {
    this.#snapshot = snapshot;
    this.#pending = undefined;
    this.#witness = last ?? this.#lastCovered(snapshot) ?? this.#witness;
    this.#keep((xid) => !snapshot.covers(xid));
  }

  #lastCovered(snapshot: Snapshot): Witness | undefined {
    for (let at = this.size - 1; at >= 0; at--) {
      const payload = this.#payloads[at];
      if (payload !== undefined && snapshot.covers(this.#xids[at]!)) return { id: this.#ids[at]!, payload };
    }
    return undefined;
  }

  #keep(isKept: (xid: number, at: number) => boolean): void {
    const [xids, ids, payloads] = [this.#xids, this.#ids, this.#payloads];
    let [kept, counted] = [0, 0];
    for (let at = 0; at < ids.length; at++) {
      if (!isKept(xids[at]!, at)) continue;
      if (at < this.#counted) counted++;
      xids[kept] = xids[at]!;
      ids[kept] = ids[at]!;
      payloads[kept++] = payloads[at];
    }
    xids.length = ids.length = payloads.length = kept;
    this.#counted = counted;
  }
}

/** True where two payloads are one row. */
export type SameRow = (notified: string, read: string) => boolean;

/**
 * A set of rows, each known by its transaction, its id and what was notified: an id alone may be given out again, and anyone
 * may notify a transaction and an id that are still to come.
 */
export class DeliveredRows {
  readonly #isSame: SameRow;
  /** By transaction, then by id: more than one payload where one of them was forged. */
  readonly #payloads = new Map<number, Map<number, (string | undefined)[]>>();

  constructor(isSame: SameRow) {
    this.#isSame = isSame;
  }

  /** @param payload what was notified; undefined for a row that was read from the table. */
  add(xid: number, id: number, payload?: string): void {
    const ofTransaction = this.#payloads.get(xid) ?? new Map<number, (string | undefined)[]>();
    const payloads = ofTransaction.get(id) ?? [];
    payloads.push(payload);
    this.#payloads.set(xid, ofTransaction.set(id, payloads));
  }

  /** @param payload as the row was read from the table. */
  has(xid: number, id: number, payload: string): boolean {
    const payloads = this.#payloads.get(xid)?.get(id);
    return payloads?.some((notified) => notified === undefined || this.#isSame(notified, payload)) ?? false;
  }

  /** How many rows a snapshot does not cover. */
  countBeyond(snapshot: Snapshot): number {
    let count = 0;
    for (const [xid, ids] of this.#payloads) if (!snapshot.covers(xid)) count += ids.size;
    return count;
  }
}
