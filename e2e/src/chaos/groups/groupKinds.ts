/** The groups under test: what each is made with, how its handler fails, and what it owes. */

export type GroupName = 'plain' | 'keyed' | 'totals';

export interface GroupKind {
  readonly members: number;
  readonly concurrency: number;
  readonly order?: 'signal_name';
  readonly retries: number;
  /** How many of a row's attempts fail; Infinity for one that must become a dead letter. */
  readonly failures: (id: number) => number;
  /** The handler takes up to so many ms. */
  readonly handlerMs: number;
}

/** Short enough for a run of a minute, and long enough for a busy machine. */
export const LEASE_MS = 3_000;
export const CHECKPOINT_MS = 300;
export const CHECKPOINT_ROWS = 100;

const none = () => 0;

export const GROUP_KINDS: Readonly<Record<GroupName, GroupKind>> = {
  plain: { members: 3, concurrency: 4, retries: 3, failures: (id) => failures(id), handlerMs: 4 },
  // Rows that an owner who was killed may have begun count an attempt each time: none of them may run out here.
  keyed: {
    members: 2,
    concurrency: 4,
    order: 'signal_name',
    retries: 50,
    failures: (id) => (drawn(id) < 10 ? 1 : 0),
    handlerMs: 1,
  },
  totals: { members: 2, concurrency: 1, retries: 50, failures: none, handlerMs: 0 },
};

export const GROUP_NAMES = Object.keys(GROUP_KINDS) as GroupName[];

/** Rows that may come again for each member that ends without leaving: see point 3 of `Group`. */
export function repeatsOf({ concurrency }: GroupKind): number {
  return 4 * CHECKPOINT_ROWS + concurrency;
}

/** Of 1,000 rows, one always fails, 9 succeed at the third attempt and 30 at the second. */
function failures(id: number): number {
  const draw = drawn(id);
  if (draw < 1) return Number.POSITIVE_INFINITY;
  return draw < 10 ? 2 : draw < 40 ? 1 : 0;
}

/** From 0 to 999, spread as by chance, and the same for the same id. */
export function drawn(id: number): number {
  let mixed = Math.imul(id ^ (id >>> 15), 0x2c1b3c6d);
  mixed = Math.imul(mixed ^ (mixed >>> 12), 0x297a2d39);
  return ((mixed ^ (mixed >>> 15)) >>> 0) % 1_000;
}
