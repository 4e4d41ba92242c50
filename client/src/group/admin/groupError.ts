/** What was asked of a group can't be done, for a reason that the caller can act on. Nothing was changed. */

/**
 * - `unknown`: no group has this name.
 * - `in-use`: a member is alive.
 * - `no-timestamp`: the group's table has no column of this name to look for a moment in.
 * - `no-table`: the group's table is gone.
 */
export type GroupFailure = 'unknown' | 'in-use' | 'no-timestamp' | 'no-table';

export class GroupError extends Error {
  override name = 'GroupError';
  readonly failure: GroupFailure;

  constructor(failure: GroupFailure, message: string) {
    super(message);
    this.failure = failure;
  }
}
