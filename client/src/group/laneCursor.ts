/** The cursor of some lanes of a group, with the read that moves it. */
import { BEGINNING, type ReadingPlace } from '../listen/committedRows.ts';
import { Cursor } from '../listen/cursor.ts';
import type { Snapshot } from '../listen/snapshot.ts';
import { digestOf, type HandledRow, type StoredCursor, snapshotAt } from './storedCursor.ts';

/** A row that was begun and is not done. */
export interface UnfinishedRow {
  readonly xid: number;
  readonly id: number;
  readonly lane: number;
}

/** A read that was begun, and where it stands. */
export interface OpenRead {
  readonly from: Snapshot;
  readonly to: Snapshot;
  place: ReadingPlace;
  /** The digests of the rows that were delivered beyond `from` before. */
  readonly delivered: ReadonlyMap<string, readonly (number | undefined)[]>;
}

export class LaneCursor {
  readonly lanes: Set<number>;
  /** Rows that were begun by an owner who did not finish them: to be read before all others. */
  owed: [xid: number, id: number][];
  /** How many of the rows to come the last owner may have begun before it was given up. */
  suspects: number;
  /** Rows that were taken out of the handler's queue when this was split off. */
  unbegun: readonly UnfinishedRow[] = [];
  readonly #cursor: Cursor;
  /** The newest snapshot of which everything was delivered. A crash may undo it, until the cursor finds it on disk. */
  #proved: Snapshot | undefined;
  readonly #places: readonly (readonly [xid: number, id: string])[];
  readonly #handled: readonly HandledRow[];
  #open: OpenRead | undefined;

  constructor(stored: Omit<StoredCursor, 'at' | 'takenAt'>, cursor: Cursor, suspects = 0) {
    this.lanes = new Set(stored.lanes);
    this.owed = (stored.pending ?? []).map(([xid, id]) => [xid, id]);
    this.suspects = suspects;
    this.#cursor = cursor;
    this.#places = stored.places ?? [];
    this.#handled = stored.handled ?? [];
  }

  /** @param template any snapshot of the present server. */
  static load(stored: StoredCursor, template: Snapshot, suspects: number): LaneCursor {
    const takenAt = performance.now() - (Date.now() - stored.takenAt);
    const snapshot = template.with({ text: stored.at, lsn: 0n, takenAt, receivedAt: takenAt });
    return new LaneCursor(stored, new Cursor(snapshot), stored.unclean ? suspects : 0);
  }

  /** Everything that it covers was begun: of these lanes. */
  get snapshot(): Snapshot {
    return this.#cursor.snapshot;
  }

  isAt(to: Snapshot): boolean {
    return this.#cursor.snapshot === to && !this.#open && this.owed.length === 0;
  }

  /** Goes on with the read that broke off, or begins one. */
  open(to: Snapshot): OpenRead {
    this.#open ??= { from: this.snapshot, to, place: BEGINNING, delivered: this.#delivered() };
    return this.#open;
  }

  /** The read has come to its end. */
  close(): void {
    this.#cursor.moveTo(this.#open!.to);
    this.#open = undefined;
  }

  /** True for a row that was delivered before its read. */
  isDelivered(xid: number, id: number, payload: string): boolean {
    if (this.#places.some((place) => place[0] === xid && id <= Number(place[1]))) return true;
    const digests = this.#open!.delivered.get(`${xid}:${id}`);
    if (!digests) return false;
    return digests.includes(undefined) || digests.includes(digestOf(payload));
  }

  /** Holds for the rows that were not handled before this cursor was stored: saves reading a large transaction again. */
  get placesSql(): string | undefined {
    if (this.#places.length === 0) return undefined;
    return this.#places.map(([xid, id]) => `NOT (xid = '${xid}'::xid8 AND id <= ${id})`).join(' AND ');
  }

  record(xid: number, id: number, payload: string): void {
    this.#cursor.record(xid, id, payload);
  }

  prove(snapshot: Snapshot): void {
    if (snapshot.takenAt >= this.snapshot.receivedAt) this.#proved = snapshot;
    this.#cursor.prove(snapshot);
  }

  /** On which start of a server a cursor that is stored from here means something; undefined for any. */
  get startedAt(): string | undefined {
    return this.#open ? undefined : this.#proved?.server.startedAt;
  }

  /** The server was restarted: what it had not on disk may be gone. */
  forgetProved(): void {
    this.#proved = undefined;
  }

  /** Takes these lanes out. They stand where this cursor stands now. */
  split(lanes: ReadonlySet<number>): LaneCursor {
    const cursor = new Cursor(this.snapshot);
    for (const row of this.#cursor.rows()) cursor.record(...row);
    const places = this.#places;
    const mine = [...this.lanes].filter((lane) => lanes.has(lane));
    const part = new LaneCursor({ lanes: mine, places, handled: this.#handled, pending: this.owed }, cursor);
    part.suspects = this.suspects;
    part.#proved = this.#proved;
    if (this.#open) part.#open = { ...this.#open };
    for (const lane of mine) this.lanes.delete(lane);
    return part;
  }

  /**
   * As the database keeps it. What is unfinished counts as not handled.
   *
   * From a snapshot that was proved a moment ago fewer rows are named one by one. The commit that stores it flushes all that it
   * covers; but after a restart of the server nothing may be stored of it.
   */
  stored(unfinished: readonly UnfinishedRow[], from: 'durable' | 'proved'): StoredCursor {
    const open = this.#open;
    const read = open && this.snapshot.with({ text: snapshotAt(open.from, open.to, open.place) });
    const at = read ?? (from === 'proved' ? this.#proved : undefined) ?? this.snapshot;
    const places = this.#placesBeyond(at);
    const isCovered = (xid: number, id: number) =>
      at.covers(xid) || places.some((place) => place[0] === xid && id <= Number(place[1]));
    const mine = [...unfinished, ...this.unbegun].filter(({ lane }) => this.lanes.has(lane));
    const ids = new Set(mine.map(({ id }) => id));
    const handled: HandledRow[] = this.#handled.filter(([xid, id]) => !isCovered(xid, id) && !ids.has(id));
    for (const [xid, id, payload] of this.#cursor.rows()) {
      if (!isCovered(xid, id) && !ids.has(id)) handled.push([xid, id, payload === undefined ? 0 : digestOf(payload)]);
    }
    const pending = [...this.owed, ...mine.filter(({ xid, id }) => isCovered(xid, id)).map(({ xid, id }) => [xid, id])];
    return {
      lanes: [...this.lanes].sort((a, b) => a - b),
      at: at.text,
      takenAt: Math.round(Date.now() - (performance.now() - at.takenAt)),
      ...(places.length > 0 && { places }),
      ...(handled.length > 0 && { handled }),
      ...(pending.length > 0 && { pending: pending as [number, number][] }),
      ...(this.suspects > 0 && { unclean: true as const }),
    };
  }

  /** The transactions of which a part is handled, each with its last id. */
  #placesBeyond(at: Snapshot): (readonly [xid: number, id: string])[] {
    const last = new Map<number, bigint>();
    const open = this.#open?.place;
    for (const [xid, id] of open ? [...this.#places, [open.xid, open.id] as const] : this.#places) {
      const known = last.get(xid);
      if (!at.covers(xid) && (known === undefined || BigInt(id) > known)) last.set(xid, BigInt(id));
    }
    return [...last].filter(([xid, id]) => xid > 0 && id > 0n).map(([xid, id]) => [xid, String(id)] as const);
  }

  #delivered(): Map<string, (number | undefined)[]> {
    const digests = new Map<string, (number | undefined)[]>();
    const add = (xid: number, id: number, digest: number | undefined) => {
      const key = `${xid}:${id}`;
      const known = digests.get(key);
      if (known) known.push(digest);
      else digests.set(key, [digest]);
    };
    for (const [xid, id, digest] of this.#handled) add(xid, id, digest);
    for (const [xid, id, payload] of this.#cursor.rows())
      add(xid, id, payload === undefined ? payload : digestOf(payload));
    return digests;
  }
}
