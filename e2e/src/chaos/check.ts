/** Compares what was committed with what one consumer delivered. Pure: the table and the deliveries come in as data. */
import { FORGED, NO_VALUES } from './digest.ts';

/** A row of the table at the end of a run. */
export interface CommittedRow {
  readonly id: number;
  readonly xid: string;
  /** Its `signal_name`. */
  readonly key: string;
  readonly digest: number;
  /** When its COMMIT returned, in ms; undefined where the answer was lost. */
  readonly committedAt: number | undefined;
  /** True where no fault was near its commit, nor the repair after one. */
  readonly calm: boolean;
}

/** A signal that a consumer delivered. */
export interface Delivery {
  readonly id: number;
  /** In ms, on the same clock. */
  readonly at: number;
  /** See `digest`. */
  readonly digest: number;
}

export type Violation =
  | 'missing'
  | 'duplicated'
  | 'invented'
  | 'out of order'
  | 'without values'
  | 'late'
  | 'not logged';

export interface Verdict {
  /** Distinct committed rows that were delivered. */
  delivered: number;
  /** Deliveries that anyone who may connect can cause, and that must take the place of no row. */
  forged: number;
  /** How often each rule was broken; 0 everywhere is a pass. */
  violations: Record<Violation, number>;
  /** The first few of each kind. */
  examples: Example[];
  /** From commit to delivery of the rows committed in calm, ascending, in ms. */
  calmDelays: number[];
  /** The longest from commit to delivery of any row, in ms. */
  longestDelay: number;
}

export interface Example {
  readonly violation: Violation;
  readonly id: number;
  readonly xid: string | undefined;
  readonly committedAt: number | undefined;
  readonly deliveredAt: number | undefined;
}

const EXAMPLES_OF_A_KIND = 3;

/**
 * - `missing`: committed, never delivered;
 * - `duplicated`: delivered again, counted each time;
 * - `invented`: not in the table, so never committed, or with other values than in the table;
 * - `out of order`: delivered after a row of the same transaction with a higher id;
 * - `without values`: only its id was delivered;
 * - `late`: committed in calm, yet delivered more than `lateAfterMs` after its commit;
 * - `not logged`: logged less often than delivered, or more often; counted for a consumer that logs.
 *
 * @param logged the ids in its log; undefined where it has none.
 */
export function check(
  committed: Iterable<CommittedRow>,
  deliveries: Iterable<Delivery>,
  lateAfterMs: number,
  logged?: Iterable<number>,
): Verdict {
  const missing = new Map<number, CommittedRow>();
  for (const row of committed) missing.set(row.id, row);
  const rows = new Map(missing);
  const lastOfTransaction = new Map<string, number>();
  const verdict: Verdict = {
    delivered: 0,
    forged: 0,
    violations: {
      missing: 0,
      duplicated: 0,
      invented: 0,
      'out of order': 0,
      'without values': 0,
      late: 0,
      'not logged': 0,
    },
    examples: [],
    calmDelays: [],
    longestDelay: 0,
  };
  const violation = (kind: Violation, id: number, row?: CommittedRow, delivery?: Delivery) => {
    if (++verdict.violations[kind] > EXAMPLES_OF_A_KIND) return;
    const { xid, committedAt } = row ?? {};
    verdict.examples.push({ violation: kind, id, xid, committedAt, deliveredAt: delivery?.at });
  };

  /** How much oftener each id was delivered than logged. */
  const unlogged = new Map<number, number>();
  const tally = (id: number, times: number) => unlogged.set(id, (unlogged.get(id) ?? 0) + times);
  for (const delivery of deliveries) {
    const { id, at, digest } = delivery;
    tally(id, 1);
    if (digest === FORGED) {
      verdict.forged++;
      continue;
    }
    const row = rows.get(id);
    if (!row) {
      violation('invented', id, row, delivery);
      continue;
    }
    if (digest === NO_VALUES) violation('without values', id, row, delivery);
    else if (digest !== row.digest) violation('invented', id, row, delivery);
    if (!missing.delete(id)) {
      violation('duplicated', id, row, delivery);
      continue;
    }
    verdict.delivered++;
    if ((lastOfTransaction.get(row.xid) ?? 0) > id) violation('out of order', id, row, delivery);
    else lastOfTransaction.set(row.xid, id);
    if (row.committedAt === undefined) continue;
    // It may arrive before the writer has the answer to its COMMIT.
    const delay = Math.max(0, at - row.committedAt);
    verdict.longestDelay = Math.max(verdict.longestDelay, delay);
    if (!row.calm) continue;
    verdict.calmDelays.push(delay);
    if (delay > lateAfterMs) violation('late', id, row, delivery);
  }
  for (const row of missing.values()) violation('missing', row.id, row);
  if (logged) {
    for (const id of logged) tally(id, -1);
    for (const [id, times] of unlogged) {
      for (let time = Math.abs(times); time > 0; time--) violation('not logged', id, rows.get(id));
    }
  }
  verdict.calmDelays.sort((a, b) => a - b);
  return verdict;
}
