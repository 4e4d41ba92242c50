/** A program that is not ours, or no service, as a process: what we measure beside. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { endWithUs } from '@pg-signals/local/embedded';

const PEERS = fileURLToPath(new URL('../../../shared/peers/', import.meta.url));
const ANSWER_DEADLINE_MS = 20_000;

/** The path of what a peer's `build` script made; undefined, with a line that says why, where it is not to be had. */
export function buildPeer(name: string): string | undefined {
  const build = `${PEERS}${name}/build`;
  if (!existsSync(build)) {
    console.log(`Skipped: ${name}, whose build script is not at ../shared/peers/${name}/build`);
    return undefined;
  }
  try {
    return execFileSync(build, { encoding: 'utf8', timeout: 300_000, stdio: ['ignore', 'pipe', 'pipe'] }).trim();
  } catch (error) {
    console.log(`Skipped: ${name}, which could not be built: ${(error as Error).message.trim()}`);
    return undefined;
  }
}

export interface PeerProcess {
  readonly process: ChildProcess;
  stop(): Promise<void>;
}

export interface PeerOptions {
  env?: Record<string, string>;
  cwd?: string;
  /** Its standard error: a log that we read, or one that goes nowhere. */
  log?: 'pipe' | 'ignore';
}

/** Starts a program, which ends with us at the latest. */
export function startPeer(
  command: string,
  args: string[],
  { env, cwd = '/', log = 'ignore' }: PeerOptions = {},
): PeerProcess {
  const child = spawn(command, args, {
    cwd,
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'ignore', log],
  });
  endWithUs(child, 'TERM');
  const ended = once(child, 'exit');
  return {
    process: child,
    async stop() {
      child.kill('SIGTERM');
      await ended;
    },
  };
}

/** Resolves when anything at all answers at the URL. */
export async function answersHttp(url: string): Promise<void> {
  const signal = AbortSignal.timeout(ANSWER_DEADLINE_MS);
  for (;;) {
    try {
      const response = await fetch(url, { headers: { connection: 'close' }, signal });
      await response.arrayBuffer();
      return;
    } catch (error) {
      if (signal.aborted) throw new Error(`Nothing answers at ${url}`, { cause: error });
      await sleep(20);
    }
  }
}
