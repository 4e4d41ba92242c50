/** The comparison of `make chaos` finds each kind of violation, and none in a correct delivery. */
import { describe, expect, test } from 'vitest';
import { type CommittedRow, check, type Delivery, type Violation } from '../src/chaos/check.ts';
import { FORGED } from '../src/chaos/digest.ts';

const LATE_AFTER_MS = 5_000;

/** Rows 1 to 6 in three transactions, committed out of the order of their ids. */
const committed: CommittedRow[] = [
  row(1, '70', 300),
  row(2, '71', 100),
  row(3, '71', 100),
  row(4, '72', 200),
  row(5, '72', 200),
  row(6, '70', 300),
];
const inOrder: Delivery[] = [2, 3, 4, 5, 1, 6].map((id) => deliver(id));

describe('check', () => {
  test('passes when every row is delivered once, transactions in the order of their commits', () => {
    expect(found(inOrder)).toEqual({});
    expect(check(committed, inOrder, LATE_AFTER_MS).delivered).toBe(6);
  });

  test('passes when transactions interleave, as long as each keeps the order of its own rows', () => {
    expect(found([1, 2, 4, 6, 3, 5].map((id) => deliver(id)))).toEqual({});
  });

  test('finds a row that was committed and never delivered', () => {
    expect(found(inOrder.filter(({ id }) => id !== 4))).toEqual({ missing: 1 });
  });

  test('finds every row missing when nothing was delivered', () => {
    expect(found([])).toEqual({ missing: 6 });
  });

  test('counts each time that a row is delivered again', () => {
    expect(found([...inOrder, deliver(4), deliver(4)])).toEqual({ duplicated: 2 });
  });

  test('finds a row that was never committed', () => {
    expect(found([...inOrder, deliver(7)])).toEqual({ invented: 1 });
  });

  test('finds a row whose values differ from the table', () => {
    expect(found(inOrder.map((delivery) => (delivery.id === 5 ? { ...delivery, digest: 99 } : delivery)))).toEqual({
      invented: 1,
    });
  });

  test('finds a row that comes after a later one of its transaction', () => {
    expect(found([3, 2, 4, 5, 1, 6].map((id) => deliver(id)))).toEqual({ 'out of order': 1 });
  });

  test('finds a row of which only the id was delivered', () => {
    expect(found(inOrder.map((delivery) => (delivery.id === 1 ? { ...delivery, digest: 0 } : delivery)))).toEqual({
      'without values': 1,
    });
  });

  test('counts a forged row for itself, while the row whose place it took is missing', () => {
    const forged = { ...deliver(4), digest: FORGED };
    expect(check(committed, [forged, ...inOrder], LATE_AFTER_MS)).toMatchObject({ forged: 1, delivered: 6 });
    expect(found([forged, ...inOrder])).toEqual({});
    expect(found(inOrder.map((delivery) => (delivery.id === 4 ? forged : delivery)))).toEqual({ missing: 1 });
  });

  test('finds a delivery that is not in the log, and a line in it that tells of none', () => {
    const logged = inOrder.map(({ id }) => id);
    expect(found(inOrder, committed, logged)).toEqual({});
    expect(found(inOrder, committed, logged.slice(1))).toEqual({ 'not logged': 1 });
    expect(found(inOrder, committed, [...logged, 4, 7])).toEqual({ 'not logged': 2 });
  });

  test('finds a row that came late, unless a fault explains it', () => {
    const late = inOrder.map((delivery) => (delivery.id === 1 ? { ...delivery, at: 300 + 5_001 } : delivery));
    expect(found(late)).toEqual({ late: 1 });
    const nearFault = committed.map((each) => ({ ...each, calm: false }));
    expect(found(late, nearFault)).toEqual({});
  });

  test('measures from commit to delivery, separately in calm, and leaves out a commit whose time is unknown', () => {
    const rows = [
      row(1, '70', 100),
      { ...row(2, '71', 100), calm: false },
      { ...row(3, '72', 0), committedAt: undefined },
    ];
    const verdict = check(rows, [deliver(1, 130), deliver(2, 900), deliver(3, 5)], LATE_AFTER_MS);
    expect(verdict.calmDelays).toEqual([30]);
    expect(verdict.longestDelay).toBe(800);
  });

  test('counts 0 ms for a row that arrives before its writer has the answer to its COMMIT', () => {
    expect(check([row(1, '70', 100)], [deliver(1, 99)], LATE_AFTER_MS).calmDelays).toEqual([0]);
  });

  test('shows the first violations with what is known about their rows', () => {
    expect(check(committed, inOrder.slice(1), LATE_AFTER_MS).examples).toEqual([
      { violation: 'missing', id: 2, xid: '71', committedAt: 100, deliveredAt: undefined },
    ]);
  });
});

function row(id: number, xid: string, committedAt: number): CommittedRow {
  return { id, xid, key: `k${id}`, digest: id * 1_000, committedAt, calm: true };
}

function deliver(id: number, at = 400): Delivery {
  return { id, at, digest: id * 1_000 };
}

/** The violations that occurred, each with its count. */
function found(deliveries: Delivery[], rows = committed, logged?: number[]): Partial<Record<Violation, number>> {
  const { violations } = check(rows, deliveries, LATE_AFTER_MS, logged);
  return Object.fromEntries(Object.entries(violations).filter(([, times]) => times > 0));
}
