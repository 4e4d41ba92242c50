/** Asks on the terminal before what can't be undone. */
import { once } from 'node:events';
import { createInterface } from 'node:readline/promises';

/** False where there is no one to ask. */
export const canAsk = (): boolean => Boolean(process.stdin.isTTY && process.stderr.isTTY);

/** On standard error, since standard output is the command's answer. Anything but y or yes is a no, Ctrl-C and Ctrl-D too. */
export async function confirm(question: string): Promise<boolean> {
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  try {
    const closed = once(terminal, 'close').then(() => '');
    const answer = await Promise.race([terminal.question(`${question} [y/N] `).catch(() => ''), closed]);
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    terminal.close();
  }
}
