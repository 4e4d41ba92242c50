/** What the database holds of a group's lanes, to check what no fault may break. */
import type pg from 'pg';
import type { StoredCursor } from '../src/group/storedCursor.ts';
import { Snapshot } from '../src/listen/snapshot.ts';
import { upTo } from './testGroup.ts';

/** Asks until `stop`, and throws there if a lane was ever in no cursor, or in two. */
export function watchLanes(client: pg.Client, lanes = 64, group = 'workers'): { stop(): Promise<void> } {
  let isOver = false;
  const watched = (async () => {
    while (!isOver) {
      const { rows } = await client.query(
        `SELECT (
           SELECT array_agg(lane::int ORDER BY lane::int)
           FROM (
             SELECT jsonb_array_elements(free) AS cursor
             UNION ALL
             SELECT jsonb_array_elements(cursors) FROM signal_group_members WHERE group_id = signal_groups.id
           ) AS all_cursors, jsonb_array_elements(cursor -> 'lanes') AS lane
         ) AS lanes
         FROM signal_groups
         WHERE name = $1`,
        [group],
      );
      if (rows.length > 0 && String(rows[0].lanes) !== String(upTo(lanes, 0))) {
        throw new Error(`The lanes of the group are ${rows[0].lanes}`);
      }
    }
  })();
  watched.catch(() => {}); // thrown by stop
  return {
    async stop() {
      isOver = true;
      await watched;
    },
  };
}

/** The ids that the cursors in the database say are handled, of all that are in the table. */
export async function storedAsHandled(client: pg.Client): Promise<Set<number>> {
  const stored = await client.query<{ cursors: StoredCursor[] }>(
    `SELECT free AS cursors FROM signal_groups UNION ALL SELECT cursors FROM signal_group_members`,
  );
  const { rows } = await client.query<{ id: string; xid: string }>('SELECT id, xid::text FROM signals');
  const handled = new Set<number>();
  for (const cursor of stored.rows.flatMap(({ cursors }) => cursors)) {
    const at = new Snapshot({ text: cursor.at } as Snapshot);
    for (const row of rows) {
      const [id, xid] = [Number(row.id), Number(row.xid)];
      if (!cursor.lanes.includes(id % 64)) continue;
      const isIn = (list: readonly (readonly [number, number, ...unknown[]])[] = []) =>
        list.some((each) => each[0] === xid && each[1] === id);
      const isCovered = at.covers(xid) || cursor.places?.some((place) => place[0] === xid && id <= Number(place[1]));
      if ((isCovered || isIn(cursor.handled)) && !isIn(cursor.pending)) handled.add(id);
    }
  }
  return handled;
}
