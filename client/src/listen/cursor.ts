/** Where to resume: a snapshot, and what was delivered beyond it. So resuming neither skips nor repeats. */
import type { FeedRow } from './feedTable.ts';
import type { Snapshot } from './snapshot.ts';

export class Cursor {
  #snapshot: Snapshot;
  /** Proved, and not known to be on disk yet. */
  #pending: Snapshot | undefined;
  /** Rows delivered that the snapshot does not cover, column by column: this is written once for each row. */
  #xids: string[] = [];
  #ids: number[] = [];

  /** @param snapshot a durable one: from here on every commit counts. */
  constructor(snapshot: Snapshot) {
    this.#snapshot = snapshot;
  }

  /** Everything that it covers was delivered. A crash of its server can't undo it. */
  get snapshot(): Snapshot {
    return this.#snapshot;
  }

  /** The newest snapshot of which everything was delivered. Until it is known to be durable, it is nothing to resume from. */
  get proved(): Snapshot {
    return this.#pending ?? this.#snapshot;
  }

  /** How many delivered rows are remembered. */
  get size(): number {
    return this.#ids.length;
  }

  record({ xid, id }: FeedRow): void {
    this.#xids.push(xid);
    this.#ids.push(id);
  }

  /** Those delivered beyond the snapshot, to be asked row by row. */
  delivered(): DeliveredRows {
    return new DeliveredRows(this.#xids, this.#ids);
  }

  /**
   * A proof says that everything in `snapshot` was delivered.
   *
   * It becomes the one to resume from when the server's WAL holds it on disk, which a later proof tells: both came through
   * one connection, so the server has not crashed between them. The oldest one waits, not the newest, since under a steady
   * load the newest is never on disk yet.
   *
   * A proof that is older than the snapshot to resume from changes nothing.
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
    this.forget((xid) => snapshot.covers(xid));
  }

  /** Forgets the delivered rows of the transactions for which `condition` holds; returns how many rows those were. */
  forget(condition: (xid: number) => boolean): number {
    const [xids, ids] = [this.#xids, this.#ids];
    const before = ids.length;
    let kept = 0;
    let xid: string | undefined;
    let goes = false;
    for (let at = 0; at < before; at++) {
      // The rows of one transaction come one after another.
      if (xids[at] !== xid) {
        xid = xids[at]!;
        goes = condition(Number(xid));
      }
      if (goes) continue;
      xids[kept] = xid!;
      ids[kept++] = ids[at]!;
    }
    xids.length = ids.length = kept;
    return before - kept;
  }
}

/** A set of rows. */
export class DeliveredRows {
  readonly #ids = new Map<string, Set<number>>();

  constructor(xids: readonly string[], ids: readonly number[]) {
    for (const [at, xid] of xids.entries()) {
      const ofTransaction = this.#ids.get(xid);
      if (ofTransaction) ofTransaction.add(ids[at]!);
      else this.#ids.set(xid, new Set([ids[at]!]));
    }
  }

  has({ xid, id }: FeedRow): boolean {
    return this.#ids.get(xid)?.has(id) ?? false;
  }

  /** How many rows belong to this transaction or a later one. */
  countFrom(xmin: number): number {
    let count = 0;
    for (const [xid, ids] of this.#ids) if (Number(xid) >= xmin) count += ids.size;
    return count;
  }
}
