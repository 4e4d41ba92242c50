import { expect, test } from 'vitest';
import { Cursor } from '../../src/listen/cursor.ts';
import { Snapshot } from '../../src/listen/snapshot.ts';

const server = { systemIdentifier: '1', timeline: 1, startedAt: 'then', standby: false };

const isSame = (a: string, b: string) => a === b;

/** Taken at a moment: transactions below `xmax` are over, but for those that run; the WAL ends at the moment, too. */
const at = (moment: number, xmax: number, { running = '', flushed = moment } = {}) =>
  new Snapshot({
    text: `${running.split(',')[0] || xmax}:${xmax}:${running}`,
    server,
    lsn: BigInt(moment),
    flushedLsn: BigInt(flushed),
    takenAt: moment,
    receivedAt: moment,
  });

test('a proved snapshot that is on disk forgets exactly the rows that it covers', () => {
  const cursor = new Cursor(at(1, 10));
  const rows = [
    [10, 1],
    [11, 2],
    [11, 3],
    [12, 4],
  ] as const;
  for (const [xid, id] of rows) cursor.record(xid, id, `${id}`);
  const proof = at(5, 12, { running: '11' });
  cursor.prove(proof);
  expect(cursor.snapshot).toBe(proof);
  const delivered = cursor.delivered(isSame);
  expect(rows.map(([xid, id]) => delivered.has(xid, id, `${id}`))).toEqual([false, true, true, true]);
  expect(cursor.size).toBe(3);
});

test('a row is known by its transaction and its id: an id that is given out again is another row', () => {
  const cursor = new Cursor(at(1, 10));
  cursor.record(10, 1, '1');
  expect(cursor.delivered(isSame).has(10, 1, '1')).toBe(true);
  expect(cursor.delivered(isSame).has(11, 1, '1')).toBe(false);
});

test('a snapshot that is not on disk yet counts when a later proof says that it is, and later ones do not push it out', () => {
  const [start, first, second, third] = [
    at(1, 10),
    at(5, 11, { flushed: 4 }),
    at(9, 12, { flushed: 4 }),
    at(12, 13, { flushed: 6 }),
  ];
  const cursor = new Cursor(start);
  cursor.record(10, 1, '1');
  cursor.prove(first);
  cursor.record(11, 2, '2');
  cursor.prove(second);
  expect([cursor.snapshot, cursor.size]).toEqual([start, 2]);
  cursor.prove(third);
  expect([cursor.snapshot, cursor.size]).toEqual([first, 1]);
});

test('a proof that was begun before the latest catch-up moves nothing back', () => {
  const cursor = new Cursor(at(1, 10));
  const before = at(5, 11);
  const caughtUp = at(6, 20);
  cursor.moveTo(caughtUp);
  cursor.prove(before);
  expect(cursor.snapshot).toBe(caughtUp);
});

test('a catch-up forgets a proof whose snapshot was not on disk: the server may have crashed since', () => {
  const cursor = new Cursor(at(1, 10));
  cursor.prove(at(5, 11, { flushed: 4 }));
  const caughtUp = at(6, 10);
  cursor.moveTo(caughtUp);
  cursor.prove(at(9, 10, { flushed: 8 }));
  expect(cursor.snapshot).toBe(caughtUp);
});

/** Resolves at the next millisecond, a moment after all that happened before. */
async function later(): Promise<number> {
  const moment = Math.ceil(performance.now()) + 1;
  while (performance.now() < moment) await new Promise((resolve) => setImmediate(resolve));
  return moment;
}

test('what no snapshot covers that was asked for after its delivery was forged, and is forgotten', async () => {
  const cursor = new Cursor(at(1, 10));
  cursor.record(999, 1, 'forged');
  cursor.prove(at(await later(), 12));
  expect(cursor.size).toBe(1);
  cursor.prove(at(await later(), 14));
  expect(cursor.size).toBe(0);
});

test('a row delivered after a snapshot was asked for stays known, however late the marker of that snapshot is', async () => {
  const cursor = new Cursor(at(1, 10));
  const [first, second] = [at(await later(), 12), at(await later(), 12)];
  // The callbacks were slow: both markers waited while this row committed and was delivered.
  cursor.record(20, 1, 'real');
  cursor.prove(first);
  cursor.prove(second);
  expect(cursor.delivered(isSame).has(20, 1, 'real')).toBe(true);
});
