/** Progress of a file: a bar on a terminal, nothing elsewhere. */

export interface Progress {
  /** Shows the lines and bytes of the input so far. */
  show(lines: number, bytes: number): void;
  /** Writes a line above the bar. */
  say(text: string): void;
  /** Clears the bar. */
  end(): void;
}

const EVERY_MS = 100;
const WIDTH = 30;

/** @param total length of the input in bytes, where it is known. */
export function createProgress(output: NodeJS.WriteStream, total: number | undefined): Progress {
  const startedAt = performance.now();
  let shownAt = 0;
  let bar = '';
  const clear = () => output.isTTY && output.write('\r\x1b[K');
  return {
    show(lines, bytes) {
      const now = performance.now();
      if (!output.isTTY || (now - shownAt < EVERY_MS && bytes !== total)) return;
      shownAt = now;
      bar = progressLine(lines, bytes, total, (now - startedAt) / 1_000);
      clear();
      output.write(bar);
    },
    say(text) {
      clear();
      output.write(`${text}\n${output.isTTY ? bar : ''}`);
    },
    end: () => void clear(),
  };
}

/** @param seconds since the start. */
export function progressLine(lines: number, bytes: number, total: number | undefined, seconds: number): string {
  const rate = `${lines.toLocaleString('en')} lines, ${perSecond(lines, seconds)}`;
  if (!total) return rate;
  const share = Math.min(1, bytes / total);
  const full = Math.round(share * WIDTH);
  const left = share > 0 ? `, ${Math.ceil((seconds / share) * (1 - share))} s left` : '';
  return `[${'='.repeat(full)}${' '.repeat(WIDTH - full)}] ${Math.floor(share * 100)} % ${rate}${left}`;
}

export function perSecond(lines: number, seconds: number): string {
  return `${Math.round(lines / Math.max(seconds, 0.001)).toLocaleString('en')}/s`;
}
