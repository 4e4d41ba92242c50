/** Prints what a program measured, and keeps it in `results/` for `readme.ts`. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import type { Database } from './database.ts';

const RESULTS = new URL('../results/', import.meta.url);
const printed: string[] = [];

/** Prints paragraphs and tables. */
export function print(...texts: string[]): void {
  for (const text of texts) console.log(`${text}\n`);
  printed.push(...texts);
}

/** Writes all that was printed to `results/<name>.txt`, and `figures` to `results/<name>.json`. */
export function keep(name: string, figures?: object): void {
  mkdirSync(RESULTS, { recursive: true });
  writeFileSync(new URL(`${name}.txt`, RESULTS), `${printed.join('\n\n')}\n`);
  if (figures) writeFileSync(new URL(`${name}.json`, RESULTS), `${JSON.stringify(figures, null, 2)}\n`);
}

/** Prints which versions are measured on which machine. */
export function printRun({ version }: Database, ...more: string[]): void {
  const ours = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version;
  const cpus = `${os.cpus().length} x ${os.cpus()[0]?.model.trim() ?? 'unknown CPU'}`;
  const memory = `${Math.round(os.totalmem() / 2 ** 30)} GiB, load ${os.loadavg()[0]!.toFixed(2)} at the start`;
  const versions = [`pg-signals ${ours}`, `Node ${process.versions.node}`, version, `${os.type()} ${os.release()}`];
  print([...versions, cpus, memory, ...more].join(', '));
}
