/** How long `make run` takes, on an installed copy of the project. */
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort } from '@pg-signals/local/embedded';

export interface StartTimes {
  /** From the command to the line with the curl to try, in s. */
  ready: number;
  /** From the command to the first signal in a consumer's log, posted as soon as that line is there, in s. */
  firstSignal: number;
}

/** Starts and stops `make run` once without data and once with it, `rounds` times. */
export async function measureMakeRun(rounds: number): Promise<{ fresh: StartTimes[]; existing: StartTimes[] }> {
  const folder = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
  chmodSync(folder, 0o755); // as root, PostgreSQL runs as another user
  try {
    copyInstalledProject(folder);
    const [fresh, existing]: [StartTimes[], StartTimes[]] = [[], []];
    for (let round = 0; round < rounds; round++) {
      rmSync(path.join(folder, '.data'), { recursive: true, force: true });
      fresh.push(await startOnce(folder));
      existing.push(await startOnce(folder));
    }
    return { fresh, existing };
  } finally {
    rmSync(realpathSync(folder), { recursive: true, force: true });
  }
}

/** Files that git would hold, and node_modules by hard links, newer than they are: nothing is left to install. */
function copyInstalledProject(folder: string): void {
  const script = `
    set -e
    git ls-files -coz --exclude-standard | tar --null --ignore-failed-read -cf - -T - | tar -xf - -C "$1"
    cp -al node_modules "$1" 2>/dev/null || cp -a node_modules "$1"
    rm "$1/node_modules/.package-lock.json"
    cp node_modules/.package-lock.json "$1/node_modules/"`;
  execFileSync('sh', ['-c', script, 'sh', folder], { cwd: fileURLToPath(new URL('../..', import.meta.url)) });
}

async function startOnce(folder: string): Promise<StartTimes> {
  const port = await freePort();
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1_000;
  const make = spawn('make', ['run'], {
    cwd: folder,
    env: { PATH: process.env.PATH, HOME: folder, PORT: String(port) },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => make.once('close', resolve));
  let output = '';
  let ready = 0;
  const seen = Promise.withResolvers<number>();
  make.stdout.setEncoding('utf8').on('data', (text: string) => {
    output += text;
    if (!ready && output.includes('curl -X POST')) {
      ready = seconds();
      fetch(`http://localhost:${port}/ingest`, { method: 'POST', headers: { connection: 'close' } }).catch(seen.reject);
    }
    if (output.includes('notification received')) seen.resolve(seconds());
  });
  const unseen = ended.then((code) => Promise.reject(new Error(`make run ended with ${code}:\n${output}`)));
  const firstSignal = await Promise.race([seen.promise, unseen]);
  make.kill('SIGTERM'); // which make hands on
  await ended;
  return { ready, firstSignal: firstSignal as number };
}
