/** What a feed needs of the code that reads its table and keeps its cursor. */
import type { FeedRow } from './feedTable.ts';
import type { Server, Snapshot } from './snapshot.ts';

/** Rows in the order in which they are to be delivered. */
export interface RowSource<Item> {
  readonly name: 'notify' | 'catch_up';
  /** Where they come from: whatever else is read of them has to be read there. */
  readonly server: Server;
  /** The next item; undefined when there is none now. */
  next(): Item | undefined;
  /** What comes after it. */
  waiting(): Iterable<Item>;
  /** A quick look before an item is parsed: false only for a row that is not to be delivered here. */
  mayBeWanted?(item: Item): boolean;
  /** False for a row that is not to be delivered here. */
  isWanted?(row: FeedRow): boolean;
  /** True for a row that was delivered before. */
  isDuplicate(xid: number, id: number, payload: string): boolean;
  /** To be called just before a row is delivered: a notified row goes into the cursor, one that is read moves the place. */
  record(xid: number, id: number, payload: string): void;
}

/** Delivers what a source has, until it has nothing or `ended` aborts. */
export type Deliver = (source: RowSource<string>, ended: AbortSignal) => Promise<void>;

/** Reads a table and keeps the cursor: for one consumer, or for the lanes of a group. */
export interface Reading {
  /** A connection listens: every commit that this durable snapshot does not cover is notified. */
  begin(snapshot: Snapshot): void;
  /**
   * Delivers all that a durable snapshot covers and was not delivered before. Resolves with false when `ended` came first:
   * nothing is lost then, and the next call goes on.
   */
  readTo(to: Snapshot, ended: AbortSignal): Promise<boolean>;
  /** True for a transaction that the last `readTo` has read. */
  wasRead(xid: number): boolean;
  /** Of a notified row, as `RowSource` has it. */
  mayBeWanted(payload: string): boolean;
  isWanted(row: FeedRow): boolean;
  /** To be called just before a notified row is delivered. */
  record(xid: number, id: number, payload: string): void;
  /** Everything that `snapshot` covers was delivered: notifications have proved it. */
  prove(snapshot: Snapshot): void;
}
