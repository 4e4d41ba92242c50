/** Deletes a group. */
import type { Pool } from 'pg';
import { findGroup, notifyMembers } from './findGroup.ts';
import { GroupError } from './groupError.ts';
import { changing } from './transaction.ts';

/** What went with it. */
export interface DeletedGroup {
  readonly retries: number;
  readonly dead_letters: number;
}

/**
 * Deletes a group with its cursors, retries and dead letters. A group of the same name that is made later begins anew.
 *
 * @throws {GroupError} `unknown`; `in-use` while a member is alive, with its name.
 */
export function deleteGroup(pool: Pool, name: string): Promise<DeletedGroup> {
  return changing(pool, async (query) => {
    const { id } = await findGroup(query, name, 'FOR UPDATE');
    const alive = await query<[string]>(
      `SELECT name
       FROM public.signal_group_members
       WHERE group_id = $1 AND lease_until >= clock_timestamp()
       ORDER BY epoch
       FOR UPDATE`,
      [id],
    );
    if (alive.length > 0) {
      const names = alive.map(([member]) => member).join(', ');
      throw new GroupError('in-use', `the group ${name} has members that are alive: ${names}. Stop them first`);
    }
    // Before the group, whose deletion takes its retries along.
    const retries = await query('DELETE FROM public.signal_retries WHERE group_id = $1 RETURNING signal_id', [id]);
    const dead = await query('DELETE FROM public.dead_letters WHERE group_name = $1 RETURNING id', [name]);
    await query('DELETE FROM public.signal_groups WHERE id = $1', [id]);
    await notifyMembers(query, name);
    return { retries: retries.length, dead_letters: dead.length };
  });
}
