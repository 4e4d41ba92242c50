/** README's two programs, as they stand there, run by the commands that stand there. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command } from './command.ts';

/**
 * Runs them in an installed copy of the project whose database runs: one listens, the other publishes.
 *
 * @returns the line that the listening one printed for that signal.
 * @throws {Error} with the output of the program that ended early or failed.
 */
export async function runReadmePrograms(directory: string, variables: Record<string, string> = {}): Promise<string> {
  const readme = readFileSync(path.join(directory, 'README.md'), 'utf8');
  const blocks = (language: string) =>
    [...readme.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, text]) => text!);
  const [alerts, sensor] = blocks('ts');
  writeFileSync(path.join(directory, 'alerts.ts'), alerts!);
  writeFileSync(path.join(directory, 'sensor.ts'), sensor!);
  const commands = blocks('sh').find((block) => block.includes('alerts.ts'))!;
  const [listen, publish] = commands.trim().split('\n');

  const listening = new Command(['sh', '-c', listen!], { directory, variables });
  try {
    await listening.shows(/Starting listener/);
    const publishing = new Command(['sh', '-c', publish!], { directory, variables });
    if ((await publishing.ended) !== 0) throw new Error(publishing.output);
    return (await listening.shows(/^temperature .*$/m))[0];
  } finally {
    listening.pressCtrlC();
    await listening.ended;
  }
}
