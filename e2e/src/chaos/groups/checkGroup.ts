/** Compares what was committed with what the members of one group did. Pure: both come in as data. */
import { type GroupKind, repeatsOf } from './groupKinds.ts';
import type { Run } from './runLog.ts';

/** A row of the table at the end of a run. */
export interface GroupRow {
  readonly id: number;
  readonly xid: string;
  /** Its `signal_name`, of which one writer at a time commits rows. */
  readonly key: string;
  readonly committedAt: number | undefined;
}

/** What one process of a member did. */
export interface MemberRuns {
  readonly member: string;
  readonly runs: readonly Run[];
  /** The epochs that it left in order. */
  readonly left: readonly number[];
}

export type GroupViolation =
  | 'missing'
  | 'repeated beyond'
  | 'misplaced'
  | 'two owners'
  | 'given up'
  | 'invented'
  | 'counted wrongly';

export const GROUP_VIOLATIONS: readonly GroupViolation[] = [
  'missing',
  'repeated beyond',
  'misplaced',
  'two owners',
  'given up',
  'invented',
  'counted wrongly',
];

export interface GroupVerdict {
  /** Distinct committed rows that were handled. */
  handled: number;
  /** How often a row was handled again. */
  repeated: number;
  /** How often that may happen at most: once for each row in hand of each member that ended without leaving. */
  allowed: number;
  deadLetters: number;
  violations: Record<GroupViolation, number>;
  /** The first few of each kind, for people. */
  examples: string[];
  /** From commit to the end of the first run that succeeds, in ms. */
  longestDelay: number;
}

const EXAMPLES_OF_A_KIND = 3;

/**
 * - `missing`: committed, never handled, and no dead letter;
 * - `repeated beyond`: handled again, and its first owner left in order, or had handled more rows after it than may come again;
 * - `misplaced`: begun before the row before it, of the same key, was handled;
 * - `two owners`: two members have run rows of one lane under one epoch;
 * - `given up`: a dead letter whose handler would have succeeded, though members ended too seldom to explain it; or fewer attempts
 *   than were due;
 * - `invented`: not in the table;
 * - `counted wrongly`: of totals alone, see `checkTotals`.
 *
 * @param dead the attempts of each dead letter.
 */
export function checkGroup(
  kind: GroupKind,
  committed: Iterable<GroupRow>,
  members: readonly MemberRuns[],
  dead: ReadonlyMap<number, number>,
): GroupVerdict {
  const rows = new Map<number, GroupRow>();
  for (const row of committed) rows.set(row.id, row);
  const { verdict, violation } = newVerdict();
  verdict.deadLetters = dead.size;

  const left = new Set(members.flatMap((each) => each.left));
  const owners = new Map<string, string>();
  const runs = new Map<number, Run[]>();
  for (const { member, runs: its } of members) {
    for (const run of its) {
      const place = `${run.lane}:${run.epoch}`;
      const owner = owners.get(place) ?? member;
      owners.set(place, owner);
      if (owner !== member) violation('two owners', `${tell(run)} by ${member} and by ${owner}`);
      const known = runs.get(run.id);
      if (known) known.push(run);
      else runs.set(run.id, [run]);
    }
  }
  const all = members.flatMap((each) => each.runs);
  const rank = ranks(all);
  verdict.allowed = new Set(all.map(({ epoch }) => epoch).filter((epoch) => !left.has(epoch))).size * repeatsOf(kind);

  const handledAt = new Map<number, number>();
  for (const [id, its] of runs) {
    const row = rows.get(id);
    if (!row) {
      violation('invented', tell(its[0]!));
      continue;
    }
    const done = its.filter(isDone).sort((a, b) => a.endedAt - b.endedAt);
    if (done.length === 0) continue;
    verdict.handled++;
    handledAt.set(id, done[0]!.endedAt);
    if (row.committedAt !== undefined) {
      verdict.longestDelay = Math.max(verdict.longestDelay, done[0]!.endedAt - row.committedAt);
    }
    for (let i = 1; i < done.length; i++) {
      const [first, second] = [done[i - 1]!, done[i]!];
      verdict.repeated++;
      const mayRepeat = first.attempt === 1 ? repeatsOf(kind) : kind.concurrency;
      const wasInHand = !left.has(first.epoch) && rank.get(first)! < mayRepeat;
      // It was given up while it had the row in hand, and finished it when its successor had done so.
      const wasFrozen = !left.has(second.epoch) && second.begunAt < first.begunAt;
      if (!wasInHand && !wasFrozen)
        violation('repeated beyond', `${tell(first)}, then ${tell(second)}, ${rank.get(first)} rows later`);
    }
  }

  for (const { id, xid } of rows.values()) {
    if (dead.has(id)) {
      const ended = (runs.get(id) ?? []).filter((run) => run.endedAt !== undefined).length;
      const needed = Math.min(kind.failures(id), kind.retries);
      const interrupted = kind.retries + 1 - ended;
      const isExplained =
        kind.failures(id) > kind.retries || (!handledAt.has(id) && interrupted >= kind.retries + 1 - needed);
      if (!isExplained || dead.get(id) !== kind.retries + 1)
        violation('given up', `id ${id} after ${dead.get(id)} attempts, ${ended} of them ended`);
    } else if (!handledAt.has(id))
      violation(
        'missing',
        `id ${id} of transaction ${xid}, ${(runs.get(id) ?? []).map(tell).join(', ') || 'never begun'}`,
      );
  }
  if (kind.order) checkOrder(rows.values(), runs, handledAt, violation);
  return verdict;
}

/** Each committed row is counted once, and no other. */
export function checkTotals(
  committed: Iterable<GroupRow>,
  totals: { readonly counts: ReadonlyMap<number, number>; readonly wrong: readonly string[] },
  dead: ReadonlyMap<number, number>,
): GroupVerdict {
  const { verdict, violation } = newVerdict();
  const ids = new Set<number>();
  for (const { id, xid } of committed) {
    ids.add(id);
    const times = totals.counts.get(id) ?? 0;
    if (times === 0) violation('missing', `id ${id} of transaction ${xid}`);
    else verdict.handled++;
    if (times > 1) {
      verdict.repeated += times - 1;
      violation('counted wrongly', `id ${id} of transaction ${xid}, ${times} times`);
    }
  }
  for (const id of totals.counts.keys()) if (!ids.has(id)) violation('invented', `id ${id}`);
  for (const writer of totals.wrong) violation('counted wrongly', `the total of ${writer}`);
  verdict.deadLetters = dead.size;
  for (const id of dead.keys()) violation('given up', `id ${id}`);
  return verdict;
}

type Report = (kind: GroupViolation, example: string) => void;

function newVerdict(): { verdict: GroupVerdict; violation: Report } {
  const violations = Object.fromEntries(GROUP_VIOLATIONS.map((kind) => [kind, 0])) as Record<GroupViolation, number>;
  const verdict: GroupVerdict = {
    handled: 0,
    repeated: 0,
    allowed: 0,
    deadLetters: 0,
    violations,
    examples: [],
    longestDelay: 0,
  };
  const violation: Report = (kind, example) => {
    if (++violations[kind] <= EXAMPLES_OF_A_KIND) verdict.examples.push(`${kind}: ${example}`);
  };
  return { verdict, violation };
}

/** How many rows of the same epoch, first runs or later ones, were done after each. */
function ranks(runs: readonly Run[]): Map<Run, number> {
  const rank = new Map<Run, number>();
  const after = new Map<string, number>();
  for (const run of runs.filter(isDone).sort((a, b) => b.endedAt - a.endedAt)) {
    const group = `${run.epoch}:${run.attempt === 1}`;
    const count = after.get(group) ?? 0;
    rank.set(run, count);
    after.set(group, count + 1);
  }
  return rank;
}

/** The rows of a key are committed by one writer, one transaction after another: their order is that of `(xid, id)`. */
function checkOrder(
  rows: Iterable<GroupRow>,
  runs: ReadonlyMap<number, readonly Run[]>,
  handledAt: ReadonlyMap<number, number>,
  violation: Report,
): void {
  for (const its of Map.groupBy(rows, ({ key }) => key).values()) {
    its.sort((a, b) => Number(a.xid) - Number(b.xid) || a.id - b.id);
    for (let i = 1; i < its.length; i++) {
      const [before, row] = [its[i - 1]!, its[i]!];
      const first = runs.get(row.id)?.reduce((a, b) => (a.begunAt <= b.begunAt ? a : b));
      const due = handledAt.get(before.id);
      if (first && due !== undefined && first.begunAt < due) {
        const others = runs.get(before.id)!.map(tell).join('; ');
        violation('misplaced', `key ${row.key}: ${tell(first)}, before id ${before.id} was handled: ${others}`);
      }
    }
  }
}

const isDone = (run: Run): run is Run & { endedAt: number } => run.endedAt !== undefined && !run.failed;

function tell({ id, lane, epoch, attempt, begunAt, endedAt, failed }: Run): string {
  const end = endedAt === undefined ? '…' : `${Math.round(endedAt)}${failed ? ' failed' : ''}`;
  return `id ${id} in lane ${lane}, epoch ${epoch}, attempt ${attempt}, ${Math.round(begunAt)} to ${end}`;
}
