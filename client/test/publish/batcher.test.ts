/** Group commit without a server: which groups go together, which wait, which fail alone. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { Batcher, type BatcherOptions, OverloadedError, TimedOutError } from '../../src/publish/batcher.ts';

class Refused extends Error {}

interface Insert {
  items: readonly string[];
  end: PromiseWithResolvers<void>;
}

/** A batcher over inserts that end when the test says so; `begun(n)` resolves when the nth has begun. */
function setup(options: Partial<BatcherOptions<string, string>> = {}) {
  const inserts: Insert[] = [];
  const waiters = new Map<number, (insert: Insert) => void>();
  const batcher = new Batcher<string, string>({
    async insert(items) {
      const insert = { items, end: Promise.withResolvers<void>() };
      waiters.get(inserts.push(insert))?.(insert);
      await insert.end.promise;
      return items.map((item) => `row of ${item}`);
    },
    isRefusal: (error) => error instanceof Refused,
    maxBatch: 2_000,
    maxBatchBytes: 1_000_000,
    maxInFlight: 1,
    maxQueue: 10_000,
    maxQueueBytes: 1_000_000,
    timeoutMs: 60_000,
    ...options,
  });
  const begun = async (nth: number) => inserts[nth - 1] ?? new Promise<Insert>((resolve) => waiters.set(nth, resolve));
  return { batcher, inserts, begun, add: (...items: string[]) => batcher.add(items, items.length) };
}

/** A batcher over inserts that end by themselves, and are refused where they hold one of these items. */
function refusing(...bad: string[]) {
  const batches: string[][] = [];
  const { add } = setup({
    async insert(items) {
      batches.push([...items]);
      if (items.some((item) => bad.includes(item))) throw new Refused('no');
      return items.map((item) => `row of ${item}`);
    },
  });
  return { batches, add };
}

test('a lone item is inserted at the end of the turn, and answered with its row', async () => {
  const { inserts, add } = setup();
  const added = add('a');
  await nextTurn();
  expect(inserts.map(({ items }) => items)).toEqual([['a']]);
  inserts[0]!.end.resolve();
  expect(await added).toEqual(['row of a']);
});

test('items added while an insert is in flight go together into the next, in order, each answered with its own row', async () => {
  const { inserts, begun, add } = setup();
  add('a');
  const first = await begun(1);
  const others = [add('b'), add('c', 'd'), add('e')];
  await nextTurn();
  expect(inserts).toHaveLength(1);
  first.end.resolve();
  const second = await begun(2);
  expect(second.items).toEqual(['b', 'c', 'd', 'e']);
  second.end.resolve();
  expect(await Promise.all(others)).toEqual([['row of b'], ['row of c', 'row of d'], ['row of e']]);
});

test('several items wait for more, until a turn brings none', async () => {
  const { inserts, begun, add } = setup();
  add('a');
  add('b');
  await nextTurn();
  add('c');
  await nextTurn();
  expect(inserts).toHaveLength(0);
  expect((await begun(1)).items).toEqual(['a', 'b', 'c']);
});

test('a steady stream of items does not delay a batch forever', async () => {
  const { inserts, add } = setup();
  for (let turn = 0; turn < 10; turn++) {
    add(`first of ${turn}`);
    add(`second of ${turn}`);
    await nextTurn();
  }
  expect(inserts).toHaveLength(1);
});

test('a large batch goes at once, and the next one before the first is answered', async () => {
  const { inserts, add } = setup();
  const many = Array.from({ length: 128 }, (_, n) => `s${n}`);
  const insertsWhenAnswered = add(...many).then(() => inserts.length);
  expect(inserts).toHaveLength(1);
  add(...many);
  inserts[0]!.end.resolve();
  expect(await insertsWhenAnswered).toBe(2);
});

test('a full batch goes at once, however small maxBatch is', async () => {
  const { inserts, add } = setup({ maxBatch: 3 });
  for (const item of ['a', 'b', 'c', 'd']) add(item);
  expect(inserts.map(({ items }) => items)).toEqual([['a', 'b', 'c']]);
});

test('it is idle when the last of several inserts in flight has ended', async () => {
  const { batcher, begun, add } = setup({ maxBatch: 1, maxInFlight: 2 });
  add('a');
  add('b');
  const idle = vi.fn();
  const [first, second] = [await begun(1), await begun(2)];
  batcher.idle().then(idle);
  first.end.resolve();
  await nextTurn();
  expect(idle).not.toHaveBeenCalled();
  second.end.resolve();
  await vi.waitFor(() => expect(idle).toHaveBeenCalled());
});

test('no caller is answered before the commit', async () => {
  const { begun, add } = setup();
  const answered = vi.fn();
  const added = add('a').then(answered);
  const { end } = await begun(1);
  await nextTurn();
  expect(answered).not.toHaveBeenCalled();
  end.resolve();
  await added;
  expect(answered).toHaveBeenCalled();
});

test('no insert is larger than maxBatch, but a group is never split', async () => {
  const { inserts, begun, add } = setup({ maxBatch: 3 });
  const all = [add('a'), add('b', 'c'), add('d', 'e'), add('1', '2', '3', '4'), add('f')];
  for (let n = 1; n <= 4; n++) (await begun(n)).end.resolve();
  await Promise.all(all);
  expect(inserts.map(({ items }) => items.join(''))).toEqual(['abc', 'de', '1234', 'f']);
});

test('no insert is larger than maxBatchBytes', async () => {
  const { inserts, begun, batcher } = setup({ maxBatchBytes: 10 });
  const all = [batcher.add(['a'], 6), batcher.add(['b'], 6), batcher.add(['c'], 4)];
  for (let n = 1; n <= 2; n++) (await begun(n)).end.resolve();
  await Promise.all(all);
  expect(inserts.map(({ items }) => items.join(''))).toEqual(['a', 'bc']);
});

test('maxInFlight inserts run at the same time', async () => {
  const { inserts, begun, add } = setup({ maxInFlight: 2, maxBatch: 1 });
  const all = [add('a'), add('b'), add('c')];
  const second = await begun(2);
  await nextTurn();
  expect(inserts).toHaveLength(2);
  second.end.resolve();
  await begun(3);
  expect(inserts.map(({ items }) => items[0])).toEqual(['a', 'b', 'c']);
  for (const { end } of inserts) end.resolve();
  await Promise.all(all);
});

test('a bad item fails alone, wherever it is', async () => {
  const items = Array.from({ length: 33 }, (_, n) => `item ${n}`);
  for (const bad of items) {
    const { add } = refusing(bad);
    const outcomes = await Promise.allSettled(items.map((item) => add(item)));
    const expected = items.map((item) => (item === bad ? 'rejected' : 'fulfilled'));
    expect(outcomes.map(({ status }) => status)).toEqual(expected);
  }
});

test('in a refused batch each group is answered after its own commit', async () => {
  const { inserts, begun, add } = setup();
  const [good, bad] = [add('good'), add('bad')];
  (await begun(1)).end.reject(new Refused('no'));
  (await begun(2)).end.resolve();
  expect(await good).toEqual(['row of good']);
  expect((await begun(3)).items).toEqual(['bad']);
  inserts[2]!.end.reject(new Refused('no'));
  await expect(bad).rejects.toThrow(Refused);
});

test('one bad item among 64 costs twelve inserts more', async () => {
  const { batches, add } = refusing('item 43');
  await Promise.allSettled(Array.from({ length: 64 }, (_, n) => add(`item ${n}`)));
  expect(batches).toHaveLength(13);
});

test('a group with a bad item fails as a whole, and the others do not', async () => {
  const { add } = refusing('bad');
  const outcomes = await Promise.allSettled([add('a'), add('good', 'bad', 'fine'), add('b')]);
  expect(outcomes.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
});

test('an error that no item is to blame for rejects every caller at once, without another insert', async () => {
  const { inserts, begun, add } = setup();
  const all = Promise.allSettled([add('a'), add('b'), add('c')]);
  (await begun(1)).end.reject(new Error('connection lost'));
  const messages = (await all).map((outcome) => (outcome as PromiseRejectedResult).reason.message);
  expect(messages).toEqual(Array(3).fill('connection lost'));
  expect(inserts).toHaveLength(1);
  const next = add('d');
  (await begun(2)).end.resolve();
  expect(await next).toEqual(['row of d']);
});

test('past maxQueue it rejects at once, and accepts again when there is room', async () => {
  const { begun, batcher, add } = setup({ maxQueue: 2 });
  add('a');
  const first = await begun(1);
  const waiting = [add('b'), add('c')];
  await expect(add('d')).rejects.toThrow(OverloadedError);
  expect(batcher.waiting).toBe(2);
  first.end.resolve();
  const second = await begun(2);
  const late = add('e');
  second.end.resolve();
  expect(await Promise.all(waiting)).toEqual([['row of b'], ['row of c']]);
  (await begun(3)).end.resolve();
  expect(await late).toEqual(['row of e']);
});

test('past maxQueueBytes it rejects at once', async () => {
  const { batcher } = setup({ maxQueueBytes: 10 });
  batcher.add(['a'], 10);
  await expect(batcher.add(['b'], 1)).rejects.toThrow(OverloadedError);
});

test('an empty queue takes a group larger than maxQueue', async () => {
  const { begun, add } = setup({ maxQueue: 2 });
  const added = add('a', 'b', 'c');
  (await begun(1)).end.resolve();
  expect(await added).toHaveLength(3);
});

test('a timeout says whether the insert was sent, and the batcher goes on', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  try {
    const { begun, batcher, add } = setup({ timeoutMs: 1_000 });
    const sent = add('sent');
    const first = await begun(1);
    const outcomes = Promise.allSettled([sent, add('waiting')]);
    vi.advanceTimersByTime(500);
    const young = add('young');
    vi.advanceTimersByTime(500);
    const reasons = (await outcomes).map((outcome) => (outcome as PromiseRejectedResult).reason);
    expect(reasons).toEqual([expect.any(TimedOutError), expect.any(TimedOutError)]);
    expect(reasons.map((reason) => reason.sent)).toEqual([true, false]);
    expect(batcher.waiting).toBe(1);
    first.end.resolve();
    const second = await begun(2);
    expect(second.items).toEqual(['young']);
    second.end.resolve();
    expect(await young).toEqual(['row of young']);
  } finally {
    vi.useRealTimers();
  }
});

test('idle resolves when the last caller is answered', async () => {
  const { begun, batcher, add } = setup();
  await batcher.idle();
  const answered = vi.fn();
  add('a').then(answered);
  const idle = batcher.idle();
  (await begun(1)).end.resolve();
  await idle;
  expect(answered).toHaveBeenCalled();
});
