/** Who owns how many lanes: evenly, and as few as possible move. */
import type { StoredCursor } from './storedCursor.ts';

/**
 * How many lanes are a member's share. Where they can't be shared evenly, those who joined first have one more.
 *
 * @param members the epochs of all members that are alive, this one among them.
 */
export function quota(lanes: number, members: readonly number[], epoch: number): number {
  const rank = members.filter((each) => each < epoch).length;
  const count = Math.max(members.length, 1);
  return Math.floor(lanes / count) + (rank < lanes % count ? 1 : 0);
}

/** Takes so many lanes out of the cursors, at most: whole cursors as far as that goes, so that they stay few. */
export function takeLanes(
  cursors: readonly StoredCursor[],
  count: number,
): { taken: StoredCursor[]; left: StoredCursor[] } {
  const taken: StoredCursor[] = [];
  const left: StoredCursor[] = [];
  let wanted = Math.max(count, 0);
  for (const cursor of cursors) {
    const mine = cursor.lanes.slice(0, wanted);
    const others = cursor.lanes.slice(wanted);
    wanted -= mine.length;
    if (mine.length > 0) taken.push({ ...cursor, lanes: mine });
    if (others.length > 0) left.push({ ...cursor, lanes: others });
  }
  return { taken, left };
}
