/** A cursor of some lanes of a group, as the database keeps it. */
import { crc32 } from 'node:zlib';
import type { ReadingPlace } from '../listen/committedRows.ts';
import type { Snapshot } from '../listen/snapshot.ts';

/** A row by its transaction and its id, and by what was delivered of it: anyone may notify an id that is still to come. */
export type HandledRow = readonly [xid: number, id: number, digest: number];

/**
 * What was handled of some lanes: every row that `at` covers, the rows of `places`, and those of `handled`; but not the rows of
 * `pending`. `JSON.stringify` writes it into `signal_groups.free` and `signal_group_members.cursors`.
 */
export interface StoredCursor {
  readonly lanes: readonly number[];
  /** A `pg_snapshot`. */
  readonly at: string;
  /** When the snapshot was taken, by the clock of the member, in ms since 1970. */
  readonly takenAt: number;
  /** Of these transactions, the rows up to this id. */
  readonly places?: readonly (readonly [xid: number, id: string])[];
  /** Beyond all that. */
  readonly handled?: readonly HandledRow[];
  readonly pending?: readonly (readonly [xid: number, id: number])[];
  /** Its owner was given up: the rows after it may have been begun. */
  readonly unclean?: true;
}

/** Stands for a row in `handled`. It need not be secret: whoever forges a row ahead of time does not know what will be in it. */
export const digestOf = (payload: string): number => crc32(payload);

/**
 * The snapshot that covers what `from` covers and, of what `to` covers, every transaction before `place`: where a read from one
 * to the other stands.
 */
export function snapshotAt(from: Snapshot, to: Snapshot, place: ReadingPlace): string {
  const { xid } = place;
  const [xmax, running] =
    xid < from.xmax
      ? [from.xmax, [...from.running].filter((each) => each >= xid || !to.covers(each))]
      : [xid, [...to.running].filter((each) => each < xid)];
  running.sort((a, b) => a - b);
  return `${running[0] ?? xmax}:${xmax}:${running.join()}`;
}
