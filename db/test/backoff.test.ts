import { expect, test } from 'vitest';
import { backoff } from '../src/backoff.ts';

test('the longest delay doubles from 100 ms and stays at 30 s', () => {
  const longest = Array.from({ length: 11 }, (_, n) => backoff(n + 1, { random: () => 0.9999999 }) + 1);
  expect(longest).toEqual([100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
  expect(backoff(10_000, { random: () => 0.9999999 }) + 1).toBe(30_000);
});

test('jitter is full: a delay lies anywhere between nothing and its bound', () => {
  expect(backoff(5, { random: () => 0 })).toBe(0);
  expect(backoff(5, { random: () => 0.5 })).toBe(800);
});
