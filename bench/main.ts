/** `make bench`: every measurement in order, or those named: `npm run bench -- latency`. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';

/** Each is a program of its own, so that none measures what another left in memory. */
const ALL = ['latency', 'delivery', 'ingest', 'groups'];

const named = process.argv.slice(2);
const unknown = named.find((name) => !ALL.includes(name));
if (unknown) throw new Error(`There is no measurement called ${unknown}; there are ${ALL.join(', ')}.`);
for (const name of named.length > 0 ? named : ALL) {
  const { status } = spawnSync(process.execPath, [path.join(import.meta.dirname, `${name}.ts`)], { stdio: 'inherit' });
  if (status !== 0) process.exit(1);
}
