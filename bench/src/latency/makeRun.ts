/** How long `make run` takes, on an installed copy of the project. */
import { chmodSync, rmSync } from 'node:fs';
import path from 'node:path';
import { temporaryFolder } from '../database.ts';
import { Program, run } from '../process.ts';
import { ROOT } from '../services.ts';
import { inTurns, medians } from '../statistics.ts';

const FRESH = 'without data: makes the cluster';
const FIRST = 'first signal seen';

/** The files that git would hold; node_modules by hard links, and newer than they are: nothing is left to install. */
const COPY = `
  set -e
  git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$1"
  cp -al node_modules "$1" 2>/dev/null || cp -a node_modules "$1"
  rm "$1/node_modules/.package-lock.json"
  cp node_modules/.package-lock.json "$1/node_modules/"`;

/** Starts and stops `make run` without data and with it, in turns. */
export async function measureMakeRun(rounds: number) {
  await using folder = await temporaryFolder();
  chmodSync(folder.path, 0o755); // as root, PostgreSQL runs as another user
  await run(['sh', '-c', COPY, 'sh', folder.path], ROOT);
  const kinds = [FRESH, 'with data'];
  const turns = await inTurns(kinds, rounds, (kind) => {
    if (kind === FRESH) rmSync(path.join(folder.path, '.data'), { recursive: true, force: true });
    return startOnce(folder.path);
  });
  const [starts, slowest] = [medians(turns), medians(turns, 1)];
  return Object.fromEntries(
    kinds.map((kind) => [kind, { ...starts[kind], 'the slowest of these': slowest[kind]?.[FIRST] }]),
  );
}

/** Seconds from the command to the curl to try, and to the first signal in a consumer's log, posted right then. */
async function startOnce(cwd: string) {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1_000;
  await using make = new Program(['make', 'run'], { cwd, env: { HOME: cwd, PORT: '0' }, stdout: 'pipe' });
  const stdout = make.child.stdout!.setEncoding('utf8');
  let output = '';
  let ready = 0;
  for await (const text of stdout.iterator({ destroyOnReturn: false })) {
    output += text;
    if (output.includes('notification received')) {
      stdout.resume(); // what it writes while it stops
      return { ready, [FIRST]: seconds() };
    }
    const address = /curl -X POST (\S+)\n/.exec(output)?.[1];
    if (ready || !address) continue;
    ready = seconds();
    await fetch(`http://${address}`, { method: 'POST', headers: { connection: 'close' } });
  }
  throw new Error(`make run ended:\n${output}`);
}
