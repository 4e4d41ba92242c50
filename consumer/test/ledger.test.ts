import { expect, test } from 'vitest';
import { Ledger } from '../src/ledger.ts';
import type { Position } from '../src/position.ts';

const server = { systemIdentifier: '1', timeline: 1, startedAt: 'then', standby: false };
const at = (lsn: number, flushedLsn = lsn): Position => ({
  snapshot: `${lsn}:${lsn}:`,
  server,
  lsn: BigInt(lsn),
  flushedLsn: BigInt(flushedLsn),
  takenAt: lsn,
});

test('what was handed on before a position was asked for is forgotten once it is proved and on disk', () => {
  const ledger = new Ledger(at(1));
  ledger.record(1);
  const step = ledger.begin();
  ledger.record(2);
  expect(ledger.position.lsn).toBe(1n);
  ledger.proved(step, at(5));
  expect([ledger.position.lsn, [...ledger.handedOn()]]).toEqual([5n, [2]]);
});

test('a position that is not on disk yet replaces none, until a later one tells that it is', () => {
  const ledger = new Ledger(at(1));
  ledger.record(1);
  ledger.proved(ledger.begin(), at(5, 4));
  ledger.record(2);
  expect([ledger.position.lsn, [...ledger.handedOn()]]).toEqual([1n, [1, 2]]);
  ledger.proved(ledger.begin(), at(9, 6));
  ledger.record(3);
  expect([ledger.position.lsn, [...ledger.handedOn()]]).toEqual([5n, [2, 3]]);
});

test('a position that was never proved is passed over, and nothing handed on since is forgotten with it', () => {
  const ledger = new Ledger(at(1));
  ledger.record(1);
  ledger.begin();
  ledger.record(2);
  const step = ledger.begin();
  ledger.record(3);
  expect([...ledger.handedOn()]).toEqual([1, 2, 3]);
  ledger.proved(step, at(5));
  expect([ledger.position.lsn, [...ledger.handedOn()]]).toEqual([5n, [3]]);
});

test('after a fork only what was proved before it is remembered', () => {
  const ledger = new Ledger(at(1));
  ledger.record(1);
  ledger.proved(ledger.begin(), at(5, 0));
  ledger.record(2);
  ledger.proved(ledger.begin(), at(9, 0));
  ledger.record(3);
  expect(ledger.forgetAfter(6n)).toBe(2);
  expect([...ledger.handedOn()]).toEqual([1]);
});
