/** Splitting bytes into lines, wherever the chunks end. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, test } from 'vitest';
import { type Line, LineSplitter } from '../src/ingest/lines.ts';

const MAX = 12;
const TEXT = Buffer.concat([
  Buffer.from('\ufefffirst\n\r\n\nzwölf 😀\r\n123456789012\n1234567890123\n'),
  Buffer.from([0xff, 0x0a]),
  Buffer.from('  \nlast'),
]);
const LINES: Line[] = [
  { number: 1, text: 'first' },
  { number: 4, text: 'zwölf 😀\r' },
  { number: 5, text: '123456789012' },
  { number: 6, wrong: 'longer than 12 bytes (INGEST_MAX_BODY)' },
  { number: 7, wrong: 'not UTF-8' },
  { number: 9, text: 'last' },
];

function linesOf(chunks: readonly Buffer[]): Line[] {
  const splitter = new LineSplitter(MAX);
  return [...chunks.flatMap((chunk) => splitter.push(chunk)), ...splitter.end()];
}

test('each line comes with its number or with what is wrong with it, and empty lines are numbered too', () => {
  expect(linesOf([TEXT])).toEqual(LINES);
});

test('the lines are the same wherever the bytes are cut in three', () => {
  for (let first = 0; first <= TEXT.length; first++) {
    for (let second = first; second <= TEXT.length; second++) {
      const chunks = [TEXT.subarray(0, first), TEXT.subarray(first, second), TEXT.subarray(second)];
      expect(linesOf(chunks), `cut at ${first} and ${second}`).toEqual(LINES);
    }
  }
});

test('the lines are the same byte by byte', () => {
  expect(linesOf([...TEXT].map((byte) => Buffer.from([byte])))).toEqual(LINES);
});

test('a line in single bytes takes little more memory than its length', () => {
  setFlagsFromString('--expose-gc');
  const collect: () => void = runInNewContext('gc');
  const used = () => {
    collect();
    const { heapUsed, arrayBuffers } = process.memoryUsage();
    return heapUsed + arrayBuffers;
  };
  const splitter = new LineSplitter(2 ** 20);
  const before = used();
  for (let n = 0; n < 500_000; n++) splitter.push(Buffer.from('x'));
  expect(used() - before).toBeLessThan(10e6); // a list of them takes over 50 MB
  expect(splitter.push(Buffer.from('\n'))).toEqual([{ number: 1, text: 'x'.repeat(500_000) }]);
});
