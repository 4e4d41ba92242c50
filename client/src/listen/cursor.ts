/** Where to resume: a snapshot, and the rows delivered beyond it. So resuming neither skips nor repeats. */
import type { Snapshot } from './snapshot.ts';

export class Cursor {
  #snapshot: Snapshot;
  /** Proved, but not yet known to be on disk, so not yet safe to resume from. */
  #pending: Snapshot | undefined;
  /** The rows delivered that the snapshot does not cover: two arrays, not one of pairs, since each row adds to them. */
  readonly #xids: number[] = [];
  readonly #ids: number[] = [];

  /** @param snapshot a durable one: from here on every commit counts. */
  constructor(snapshot: Snapshot) {
    this.#snapshot = snapshot;
  }

  /** Everything that it covers was delivered, and no crash of its server can undo it. */
  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /** How many rows were delivered beyond the snapshot. */
  get size(): number {
    return this.#ids.length;
  }

  record(xid: number, id: number): void {
    this.#xids.push(xid);
    this.#ids.push(id);
  }

  /** The rows delivered beyond the snapshot, as they are now. */
  delivered(): DeliveredRows {
    return new DeliveredRows(this.#xids, this.#ids);
  }

  /**
   * A proof says that everything in `snapshot` was delivered.
   *
   * It becomes the one to resume from when this or a later proof finds the WAL on disk up to it. Both came through one
   * connection, and a crash would have ended that, so no crash lies between them. Only one snapshot waits, the oldest: under
   * a steady load the newest is never on disk yet, and replacing the one that waits would mean waiting forever. A proof that
   * was begun before the latest catch-up changes nothing.
   */
  prove(snapshot: Snapshot): void {
    if (snapshot.takenAt < this.#snapshot.receivedAt) return;
    const durable = [snapshot, this.#pending].find((proved) => proved && proved.lsn <= snapshot.flushedLsn);
    if (durable) this.moveTo(durable);
    if (durable !== snapshot) this.#pending ??= snapshot;
  }

  /** Everything that a durable snapshot covers was delivered. */
  moveTo(snapshot: Snapshot): void {
    this.#snapshot = snapshot;
    this.#pending = undefined;
    const [xids, ids] = [this.#xids, this.#ids];
    let kept = 0;
    for (let at = 0; at < ids.length; at++) {
      if (snapshot.covers(xids[at]!)) continue;
      xids[kept] = xids[at]!;
      ids[kept++] = ids[at]!;
    }
    xids.length = ids.length = kept;
  }
}

/** A set of rows, each known by its transaction and its id: an id alone may be given out again. */
export class DeliveredRows {
  readonly #ids = new Map<number, Set<number>>();

  constructor(xids: readonly number[], ids: readonly number[]) {
    for (const [at, xid] of xids.entries()) this.add(xid, ids[at]!);
  }

  add(xid: number, id: number): void {
    const ofTransaction = this.#ids.get(xid);
    if (ofTransaction) ofTransaction.add(id);
    else this.#ids.set(xid, new Set([id]));
  }

  has(xid: number, id: number): boolean {
    return this.#ids.get(xid)?.has(id) ?? false;
  }

  /** How many rows a snapshot does not cover. */
  countBeyond(snapshot: Snapshot): number {
    let count = 0;
    for (const [xid, ids] of this.#ids) if (!snapshot.covers(xid)) count += ids.size;
    return count;
  }
}
