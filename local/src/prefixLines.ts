/** Puts the name of a process before each line of its output. */

/**
 * Takes text in any pieces and writes whole lines, each behind `prefix`; `end()` writes a last line without newline.
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
