import { expect, test } from 'vitest';
import { BoundedBuffer } from '../../src/listen/buffer.ts';

test('what goes in comes out in order, however often it is emptied', () => {
  const buffer = new BoundedBuffer<number>(5_000);
  const out: number[] = [];
  let into = 0;
  for (let round = 0; round < 50; round++) {
    for (let n = 0; n < 100 + round; n++) expect(buffer.push(into++)).toBe(true);
    for (let n = 0; n < 90 + round; n++) out.push(buffer.shift()!);
  }
  for (let next = buffer.shift(); next !== undefined; next = buffer.shift()) out.push(next);
  expect(out).toEqual(Array.from({ length: into }, (_, n) => n));
  expect(buffer.length).toBe(0);
});

test('a full buffer takes nothing more, until something is taken out', () => {
  const buffer = new BoundedBuffer<string>(2);
  expect([buffer.push('a'), buffer.push('b'), buffer.push('c')]).toEqual([true, true, false]);
  expect(buffer.shift()).toBe('a');
  expect(buffer.push('d')).toBe(true);
  expect([...buffer.waiting()]).toEqual(['b', 'd']);
  buffer.clear();
  expect([buffer.length, buffer.shift()]).toEqual([0, undefined]);
});
