/** `make bench`: every measurement in order, or those named: `npm run bench -- latency`. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** Each is a program of its own, so that none measures what another left in memory. */
const ALL = ['latency', 'delivery', 'ingest'];

const named = process.argv.slice(2);
const unknown = named.filter((name) => !ALL.includes(name));
if (unknown.length > 0) {
  console.error(`There is no measurement called ${unknown.join(', ')}; there are ${ALL.join(', ')}.`);
  process.exit(1);
}
for (const name of named.length > 0 ? named : ALL) {
  const { status } = spawnSync(process.execPath, [fileURLToPath(new URL(`${name}.ts`, import.meta.url))], {
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(1);
}
