/** The reading of a group's member: its lanes, each from where it stands, and then all of them together, live. */
import type { Query } from '@pg-signals/db';
import { type Page, type Reader, type ReadingPlace, readPage } from '../listen/committedRows.ts';
import { Cursor } from '../listen/cursor.ts';
import type { FeedRow, FeedTable } from '../listen/feedTable.ts';
import type { Deliver, Reading } from '../listen/reading.ts';
import { requireServer, type Snapshot, takeDurableSnapshot } from '../listen/snapshot.ts';
import { LaneCursor, type OpenRead, type UnfinishedRow } from './laneCursor.ts';
import type { Lanes } from './lanes.ts';
import type { StoredCursor } from './storedCursor.ts';

/** While some lanes have a backlog, the others wait so many pages of it at most. */
const TURN_PAGES = 8;

/** What was found out about a row on its way to the handler. */
export interface Arrival {
  readonly xid: number;
  readonly lane: number;
  readonly key: string | undefined;
  /** An owner that was given up may have begun it. */
  readonly suspect: boolean;
}

/** What a member is to store. */
export interface StoredLanes {
  readonly kept: StoredCursor[];
  readonly released: StoredCursor[];
  /** The start of the server on which that means something; undefined for any. */
  readonly startedAt: string | undefined;
}

export interface LaneReadingOptions {
  query: Query;
  table: FeedTable<FeedRow>;
  readTimeoutMs: number;
  deliver: Deliver;
  lanes: Lanes;
  /** How many rows an owner may have begun beyond its last checkpoint. */
  suspectRows: number;
  /** Makes sure that the membership holds on the server of this snapshot; throws where it does not. */
  checkServer: (to: Snapshot) => Promise<void>;
  /** Called when the cursor may have moved. */
  onProgress: () => void;
}

/**
 * Each acquired cursor is read up to one snapshot, in turns; then they are one, the *level* cursor, and what is notified of its
 * lanes is delivered. Rows of any other lane are dropped: whoever acquires that lane reads them.
 */
export class LaneReading implements Reading {
  readonly #options: LaneReadingOptions;
  /** Acquired, and to be read: the stored ones become cursors when a snapshot says on which server. */
  #acquired: { stored: StoredCursor; at: number }[] = [];
  #behind: LaneCursor[] = [];
  #level: LaneCursor | undefined;
  #isLevel: boolean[] = [];
  /** Taken out to be released: nothing of them is delivered any more. */
  #released: LaneCursor[] = [];
  #releasedUnread: StoredCursor[] = [];
  #readTo: Snapshot | undefined;
  #lane = 0;
  #key: string | undefined;
  #arrival: Arrival = { xid: 0, lane: 0, key: undefined, suspect: false };

  constructor(options: LaneReadingOptions) {
    this.#options = options;
  }

  /** The row that is being delivered. */
  get arrival(): Arrival {
    return this.#arrival;
  }

  /** True when every lane is read up to the notifications. */
  get isLevel(): boolean {
    return this.#acquired.length === 0 && this.#behind.length === 0;
  }

  /** When everything before was delivered, by `performance.now()`; undefined while a lane has not been read yet. */
  get deliveredUntil(): number | undefined {
    if (this.#acquired.length > 0) return undefined;
    return Math.min(...this.#cursors().map(({ snapshot }) => snapshot.takenAt));
  }

  /** Lanes that were acquired at this moment. The feed has to read again. */
  acquire(cursors: readonly StoredCursor[]): void {
    const at = performance.now();
    for (const stored of cursors) this.#acquired.push({ stored, at });
  }

  /**
   * Nothing of these lanes is delivered from now on.
   *
   * @param unbegun what was delivered of them, and not begun.
   */
  release(lanes: ReadonlySet<number>, unbegun: readonly UnfinishedRow[]): void {
    const untouched = this.#acquired.filter(({ stored }) => !stored.lanes.some((lane) => lanes.has(lane)));
    for (const { stored, at } of this.#acquired.filter((each) => !untouched.includes(each))) {
      const keep = stored.lanes.filter((lane) => !lanes.has(lane));
      const give = stored.lanes.filter((lane) => lanes.has(lane));
      this.#releasedUnread.push({ ...stored, lanes: give });
      if (keep.length > 0) untouched.push({ stored: { ...stored, lanes: keep }, at }); // as old as before: the read on its way is theirs
    }
    this.#acquired = untouched;
    for (const cursor of [...this.#behind, ...(this.#level ? [this.#level] : [])]) {
      if (![...cursor.lanes].some((lane) => lanes.has(lane))) continue;
      const part = cursor.split(lanes);
      part.unbegun = unbegun;
      this.#released.push(part);
    }
    this.#behind = this.#behind.filter((cursor) => cursor.lanes.size > 0);
    this.#mark();
  }

  /** All cursors as they are to be stored now, and apart from them those that are released. */
  stored(unfinished: readonly UnfinishedRow[], from: 'durable' | 'proved' = 'durable'): StoredLanes {
    const cursors = this.#cursors();
    return {
      kept: [...this.#acquired.map(({ stored }) => stored), ...cursors.map((each) => each.stored(unfinished, from))],
      released: [...this.#releasedUnread, ...this.#released.map((each) => each.stored(unfinished, 'durable'))],
      startedAt: from === 'proved' ? cursors.find(({ startedAt }) => startedAt)?.startedAt : undefined,
    };
  }

  /** The server was restarted: only what was on disk is stored from here. */
  forgetProved(): void {
    for (const cursor of this.#cursors()) cursor.forgetProved();
  }

  /** What was released is another's now. */
  forgetReleased(): void {
    this.#released = [];
    this.#releasedUnread = [];
  }

  /** Every lane is lost. */
  clear(): void {
    for (const cursor of this.#cursors()) cursor.lanes.clear(); // the page that is being delivered stops with it
    this.#acquired = [];
    this.#behind = [];
    this.#level = undefined;
    this.forgetReleased();
    this.#mark();
  }

  get lanes(): number[] {
    const acquired = this.#acquired.flatMap(({ stored }) => stored.lanes);
    return [...acquired, ...this.#cursors().flatMap(({ lanes }) => [...lanes])];
  }

  #cursors(): LaneCursor[] {
    return this.#level && this.#level.lanes.size > 0 ? [this.#level, ...this.#behind] : [...this.#behind];
  }

  #mark(): void {
    this.#isLevel = [];
    for (const lane of this.#level?.lanes ?? []) this.#isLevel[lane] = true;
  }

  // --- what is notified -------------------------------------------------------------------------------------------------

  begin(): void {} // the cursors are in the database

  wasRead(xid: number): boolean {
    return this.#readTo!.covers(xid);
  }

  mayBeWanted(payload: string): boolean {
    const { lanes } = this.#options;
    if (lanes.isOrdered) return this.#isLevel.length > 0;
    const id = idOf(payload);
    return id === undefined || this.#isLevel[id % lanes.count] === true;
  }

  isWanted(row: FeedRow): boolean {
    this.#locate(row);
    return this.#isLevel[this.#lane] === true;
  }

  record(xid: number, id: number, payload: string): void {
    this.#level!.record(xid, id, payload);
    this.#arrival = { xid, lane: this.#lane, key: this.#key, suspect: false };
  }

  prove(snapshot: Snapshot): void {
    this.#level?.prove(snapshot);
    this.#options.onProgress();
  }

  #locate(row: FeedRow): void {
    const { lanes } = this.#options;
    this.#key = lanes.keyOf(row);
    this.#lane = lanes.laneOf(row.id, this.#key);
  }

  // --- what is read -----------------------------------------------------------------------------------------------------

  async readTo(to: Snapshot, ended: AbortSignal): Promise<boolean> {
    await this.#options.checkServer(to);
    this.#load(to);
    for (let target = to; ; target = await this.#nextTarget(to)) {
      const due = () => this.#cursors().filter((each) => !each.isAt(target));
      for (const cursor of due()) {
        await this.#readTurn(cursor, target, ended);
        if (ended.aborted) return false;
      }
      this.#readTo = target;
      if (due().length === 0) break;
    }
    this.#join(this.#readTo);
    this.#options.onProgress();
    return true;
  }

  async #nextTarget({ server }: Snapshot): Promise<Snapshot> {
    const target = await takeDurableSnapshot(this.#options.query);
    requireServer(server, target.server.startedAt);
    return target;
  }

  #load(to: Snapshot): void {
    const known = this.#acquired.filter(({ at }) => at <= to.takenAt);
    this.#acquired = this.#acquired.filter(({ at }) => at > to.takenAt);
    for (const { stored } of known) this.#behind.push(LaneCursor.load(stored, to, this.#options.suspectRows));
  }

  /** All that stand at the same snapshot are one. */
  #join(to: Snapshot): void {
    const level = this.#cursors().filter((each) => each.isAt(to));
    this.#behind = this.#behind.filter((each) => !each.isAt(to));
    const lanes = level.flatMap((each) => [...each.lanes]);
    this.#level = new LaneCursor({ lanes }, new Cursor(to));
    this.#mark();
  }

  /** Page by page, the next one on its way while the handlers have this one. */
  async #readTurn(cursor: LaneCursor, to: Snapshot, ended: AbortSignal): Promise<void> {
    await this.#readOwed(cursor, to, ended);
    if (ended.aborted || (cursor.isAt(to) && cursor.owed.length === 0)) return;
    const open = cursor.open(to);
    const page = (place: ReadingPlace) => readPage(this.#reader(cursor, to), { from: open.from, to: open.to, place });
    let coming: Promise<Page> | undefined = page(open.place);
    for (let pages = 1; coming; pages++) {
      const { payloads, next }: Page = await coming;
      if (ended.aborted || cursor.lanes.size === 0) return;
      coming = next && pages < TURN_PAGES ? page(next) : undefined;
      coming?.catch(() => {}); // thrown by the await above, when the handlers are done with this page
      await this.#deliver(cursor, open, to, payloads, ended);
      if (ended.aborted || cursor.lanes.size === 0) return;
      if (!next) return cursor.close();
      open.place = next;
      this.#options.onProgress();
    }
  }

  #reader(cursor: LaneCursor, { server }: Snapshot): Reader {
    const { query, table, readTimeoutMs: timeoutMs, lanes } = this.#options;
    const conditions = [lanes.sql(cursor.lanes), cursor.placesSql].filter((each) => each !== undefined);
    return { query, table, server, timeoutMs, where: conditions.length > 0 ? conditions.join(' AND ') : undefined };
  }

  /** @param to where it is read up to by now: the server may have been restarted since this read was begun. */
  async #deliver(
    cursor: LaneCursor,
    open: OpenRead,
    { server }: Snapshot,
    payloads: readonly string[],
    ended: AbortSignal,
  ): Promise<void> {
    let at = 0;
    await this.#options.deliver(
      {
        name: 'catch_up',
        server,
        next: () => payloads[at++],
        waiting: () => payloads.slice(at),
        isWanted: (row) => {
          this.#locate(row);
          return cursor.lanes.has(this.#lane);
        },
        isDuplicate: (xid, id, payload) => cursor.isDelivered(xid, id, payload),
        record: (xid, id) => {
          open.place = { xid, id: String(id) };
          this.#arrive(cursor, xid);
        },
      },
      ended,
    );
  }

  /** What the last owner had in hand: known by transaction and id alone, and read as a row that was too large is. */
  async #readOwed(cursor: LaneCursor, { server }: Snapshot, ended: AbortSignal): Promise<void> {
    const payloads = cursor.owed.map(([xid, id]) => `{"id":${id},"xid":"${xid}","truncated":true}`);
    if (payloads.length === 0) return;
    let at = 0;
    const passed = () => {
      cursor.owed = cursor.owed.slice(at);
      payloads.splice(0, at);
      at = 0;
    };
    await this.#options.deliver(
      {
        name: 'catch_up',
        server,
        next: () => payloads[at++],
        waiting: () => payloads.slice(at),
        isWanted: (row) => {
          this.#locate(row);
          return cursor.lanes.has(this.#lane);
        },
        isDuplicate: () => false,
        record: (xid) => {
          passed();
          this.#arrive(cursor, xid);
        },
      },
      ended,
    );
    if (!ended.aborted) cursor.owed = [];
  }

  #arrive(cursor: LaneCursor, xid: number): void {
    const suspect = cursor.suspects > 0;
    if (suspect) cursor.suspects--;
    this.#arrival = { xid, lane: this.#lane, key: this.#key, suspect };
  }
}

/** The id at the beginning of a payload as the trigger writes it; undefined for any other. */
function idOf(payload: string): number | undefined {
  if (!payload.startsWith('{"id":')) return undefined;
  let id = 0;
  for (let at = 6; ; at++) {
    const digit = payload.charCodeAt(at) - 48;
    if (!(digit >= 0 && digit <= 9)) return at > 6 && id <= Number.MAX_SAFE_INTEGER ? id : undefined;
    id = id * 10 + digit;
  }
}
