/** A service in a process of its own, as `make run` starts it: its log at `info`, written to nowhere unless asked for. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { endWithUs, freePort } from '@pg-signals/local/embedded';
import { NODE_FLAGS } from '@pg-signals/runtime';

export interface ServiceChild {
  readonly process: ChildProcess;
  readonly url: string;
  /** @throws {Error} when it does not end with code 0. */
  stop(): Promise<void>;
}

export interface ServiceOptions {
  /** Settings beside `DATABASE_URL` and `PORT`. */
  env?: Record<string, string>;
  /** Where its log goes: `pipe` lets us read it from `process.stdout`. */
  log?: 'ignore' | 'pipe';
}

const compileCache = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
process.once('exit', () => rmSync(compileCache, { recursive: true, force: true }));
const compiled = new Set<string>();

/**
 * Starts a program, given from the project's folder, as `make run` does every time but the first: what it compiles is in
 * a cache. Resolves when its `/readyz` answers 200.
 */
export async function startServiceChild(
  program: string,
  databaseUrl: string,
  { env = {}, log = 'ignore' }: ServiceOptions = {},
): Promise<ServiceChild> {
  if (!compiled.has(program)) {
    compiled.add(program);
    await (await startServiceChild(program, databaseUrl)).stop();
  }
  const port = await freePort();
  const child = fork(fileURLToPath(new URL(`../../${program}`, import.meta.url)), {
    cwd: '/', // no .env of the project
    env: {
      PATH: process.env.PATH,
      NODE_COMPILE_CACHE: compileCache,
      DATABASE_URL: databaseUrl,
      PORT: String(port),
      ...env,
    },
    execArgv: NODE_FLAGS,
    stdio: ['ignore', log, 'inherit', 'ipc'],
    serialization: 'advanced', // a bigint goes through
  });
  endWithUs(child, 'TERM');
  const url = `http://127.0.0.1:${port}`;
  while (!(await isReady(url))) {
    if (child.exitCode !== null) throw new Error(`${program} ended with code ${child.exitCode}`);
    await sleep(20);
  }
  return {
    process: child,
    url,
    async stop() {
      const ended = once(child, 'exit');
      child.kill('SIGTERM');
      const [code] = await ended;
      if (code !== 0) throw new Error(`${program} ended with code ${code}`);
    },
  };
}

async function isReady(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/readyz`, { headers: { connection: 'close' } });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false; // it does not listen yet
  }
}
