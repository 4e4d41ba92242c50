/** Marks whose output a line is. */

/**
 * Takes text in pieces as they come and hands on whole lines, each behind `prefix`; `end()` hands on a last line that has
 * no newline.
 */
export function prefixLines(prefix: string, write: (lines: string) => void) {
  let rest = '';
  return {
    push(text: string): void {
      const lines = (rest + text).split('\n');
      rest = lines.pop()!;
      if (lines.length > 0) write(lines.map((line) => `${prefix}${line}\n`).join(''));
    },
    end(): void {
      if (rest) write(`${prefix}${rest}\n`);
      rest = '';
    },
  };
}
