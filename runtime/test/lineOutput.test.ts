/** Lines on their way to an output that takes them when the test says so. */
import { expect, test } from 'vitest';
import { LineOutput, type Output } from '../src/lineOutput.ts';

/** Takes one write at a time, as a stream does. */
class SlowOutput implements Output {
  readonly written: string[] = [];
  readonly #waiting: { text: string; written: (error?: Error | null) => void }[] = [];

  get writableLength(): number {
    return this.#waiting.reduce((sum, { text }) => sum + text.length, 0);
  }

  write(text: string, written: (error?: Error | null) => void): void {
    this.#waiting.push({ text, written });
  }

  take(error?: Error): void {
    const { text, written } = this.#waiting.shift()!;
    if (!error) this.written.push(text);
    written(error);
  }
}

test('written resolves with the lines before it, whatever is added meanwhile', async () => {
  const output = new SlowOutput();
  const lines = new LineOutput(output);
  expect(lines.written()).toBeUndefined();
  lines.add('a');
  const first = lines.written()!.then(() => output.written.length);
  lines.add('b');
  const second = lines.written()!.then(() => output.written.length);
  output.take();
  lines.add('c');
  expect(await first).toBe(1);
  expect(output.written).toEqual(['a\n']);
  output.take();
  expect(await second).toBe(2);
  expect(lines.waiting).toBeGreaterThan(0);
});

test('a write that fails is counted by its lines, and does not hold up those who wait', async () => {
  const output = new SlowOutput();
  const lines = new LineOutput(output);
  lines.add('a');
  const first = lines.written();
  lines.add('b');
  lines.add('c');
  output.take(new Error('no space left'));
  await first;
  expect(lines.dropped).toBe(1);
  const all = lines.written();
  output.take(new Error('no space left'));
  await all;
  expect(lines.dropped).toBe(3);
});
