/** The seed decides a run of `make chaos`. */
import { describe, expect, test } from 'vitest';
import { calmSpans } from '../src/chaos/calm.ts';
import { decidePlan } from '../src/chaos/plans.ts';
import { Random } from '../src/chaos/random.ts';
import { drawSchedule, FAULT_KINDS, quietEnds } from '../src/chaos/schedule.ts';

const MINUTE = 60_000;

describe('the schedule', () => {
  test('is the same for the same seed, and another for another', () => {
    expect(drawSchedule('7', MINUTE, 3)).toEqual(drawSchedule('7', MINUTE, 3));
    expect(drawSchedule('7', MINUTE, 3)).not.toEqual(drawSchedule('8', MINUTE, 3));
  });

  test('has every kind of fault within five minutes', () => {
    const kinds = new Set(drawSchedule('7', 5 * MINUTE, 3).map(({ kind }) => kind));
    expect([...kinds].sort()).toEqual([...FAULT_KINDS].sort());
  });

  test('leaves the start and the end of a run without faults', () => {
    const { headMs, tailMs } = quietEnds(MINUTE);
    for (const { atMs, forMs } of drawSchedule('7', MINUTE, 3)) {
      expect(atMs).toBeGreaterThanOrEqual(headMs);
      expect(atMs + forMs).toBeLessThanOrEqual(MINUTE - tailMs);
    }
  });
});

test('a writer decides the same for the same seed', () => {
  const plans = () => {
    const random = new Random('7', 'writer 1');
    return Array.from({ length: 200 }, (_, n) => decidePlan(random, `w1.${n}`));
  };
  expect(plans()).toEqual(plans());
});

test('calm begins 3 s after a fault and ends 1 s before the next', () => {
  const faults = [
    { from: 20_000, to: 21_000 },
    { from: 10_000, to: 12_000 },
    { from: 11_000, to: 15_000 },
    { from: 25_500, to: 26_000 },
  ];
  expect(calmSpans({ from: 0, to: 40_000 }, faults)).toEqual([
    { from: 0, to: 9_000 },
    { from: 18_000, to: 19_000 },
    { from: 24_000, to: 24_500 },
    { from: 29_000, to: 40_000 },
  ]);
});
