/** Finding the items that make an insert fail. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { type Halving, inHalves } from '../../src/publish/inHalves.ts';

class Refused extends Error {}

/** Runs over an insert that refuses these letters; resolves with all that happened, in order. */
async function run(items: string, refused: string, changes: Partial<Halving<string, string>> = {}) {
  const events: string[] = [];
  await inHalves([...items], {
    async insert(part) {
      const text = part.join('');
      events.push(`insert ${text}`);
      await nextTurn();
      for (const letter of refused) if (text.includes(letter)) throw new Refused(letter);
      return `rows of ${text}`;
    },
    isRefusal: (error) => error instanceof Refused,
    inserted: (part, result) => events.push(`inserted ${part.join('')}: ${result}`),
    failed: (part, error, first) => events.push(`failed ${part.join('')} at ${first}: ${(error as Error).message}`),
    ...changes,
  });
  return events;
}

test('what the database takes is one insert', async () => {
  expect(await run('abcd', '')).toEqual(['insert abcd', 'inserted abcd: rows of abcd']);
});

test('a refused batch is inserted in halves, and each part is reported before the next one begins', async () => {
  expect(await run('abcde', 'd')).toEqual([
    'insert abcde',
    'insert ab',
    'inserted ab: rows of ab',
    'insert cde',
    'insert c',
    'inserted c: rows of c',
    'insert de',
    'insert d',
    'failed d at 3: d',
    'insert e',
    'inserted e: rows of e',
  ]);
});

test('every refused item is found, wherever it is, and with its index', async () => {
  for (const [items, refused] of [
    ['a', 'a'],
    ['ab', 'ab'],
    ['abcdefg', 'adg'],
    ['abcdefgh', 'h'],
  ] as const) {
    const failed = (await run(items, refused)).filter((event) => event.startsWith('failed'));
    expect(failed).toEqual([...refused].map((letter) => `failed ${letter} at ${items.indexOf(letter)}: ${letter}`));
  }
});

test('an error that is no refusal is not tried again in halves, and the other half is still inserted', async () => {
  const events: string[] = [];
  await run('abcd', '', {
    async insert(part) {
      const text = part.join('');
      if (text.length > 2) throw new Refused('too many');
      if (text === 'ab') throw new Error('connection lost');
      return text;
    },
    inserted: (_part, result) => events.push(`inserted ${result}`),
    failed: (part, error, first) => events.push(`failed ${part.join('')} at ${first}: ${(error as Error).message}`),
  });
  expect(events).toEqual(['failed ab at 0: connection lost', 'inserted cd']);
});

test('a failed that throws ends it', async () => {
  const inserts: string[] = [];
  const running = run('abcd', '', {
    async insert(part) {
      inserts.push(part.join(''));
      throw part.length > 2 ? new Refused('too many') : new Error('connection lost');
    },
    failed(_part, error) {
      throw error;
    },
  });
  await expect(running).rejects.toThrow('connection lost');
  expect(inserts).toEqual(['abcd', 'ab']);
});

test('an error of inserted is no failure of the insert', async () => {
  const failed: unknown[] = [];
  const running = run('ab', '', {
    inserted() {
      throw new Refused('thrown by the caller');
    },
    failed: (part) => failed.push(part),
  });
  await expect(running).rejects.toThrow('thrown by the caller');
  expect(failed).toEqual([]);
});
