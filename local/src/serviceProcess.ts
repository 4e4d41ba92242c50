/** Starts one of our services as a child process, its output behind a prefix. */
import { spawn } from 'node:child_process';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { NODE_FLAGS } from '@pg-signals/runtime';
import { endWithUs } from './endWithUs.ts';
import { prefixLines } from './prefixLines.ts';

export interface ServiceOptions {
  name: string;
  /** The program, an absolute path. */
  main: string;
  /** The working directory, where the program finds `.env`. */
  directory: string;
  /** With 0 the service takes a free one. */
  port: number;
  host: string;
  environment: NodeJS.ProcessEnv;
  prefix: string;
  write: (lines: string) => void;
}

export interface ServiceProcess {
  readonly name: string;
  /** Resolves with how it ended (`code 1`, `SIGKILL`) when all its output is written. */
  readonly ended: Promise<string>;
  /** Resolves with its URL when `/readyz` answers 200; rejects when `signal` aborts. */
  ready(signal: AbortSignal): Promise<string>;
  /** Sends SIGTERM, kills it after `timeoutMs`, and resolves when it has ended. */
  stop(timeoutMs: number): Promise<void>;
  kill(): void;
}

/** Starts a service that can't outlive this process. */
export function startService(options: ServiceOptions): ServiceProcess {
  const { name, main, directory, port, host, environment, prefix, write } = options;
  const child = spawn(process.execPath, [...NODE_FLAGS, main], {
    cwd: directory,
    // Compiled once for all of them and for the next run: a shorter start, and 20 MB less in each process.
    env: {
      NODE_COMPILE_CACHE: path.join(directory, '.data', 'compile-cache'),
      ...environment,
      PORT: String(port),
      HOST: host,
    },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    // In its own process group: a terminal sends Ctrl-C to a whole group, and the services must stop in order.
    detached: true,
  });
  endWithUs(child, 'TERM');
  for (const stream of [child.stdout, child.stderr] as Readable[]) {
    const lines = prefixLines(prefix, write);
    stream.setEncoding('utf8').on('data', lines.push).on('end', lines.end);
  }
  let url: string | undefined;
  child.once('message', (started: { url: string }) => {
    url = started.url;
  });
  const ended = new Promise<string>((resolve) => {
    child.once('close', (code, signal) => resolve(signal ?? `code ${code}`));
  });
  return {
    name,
    ended,
    async ready(signal) {
      while (!(url && (await answersReady(url)))) await sleep(50, undefined, { signal });
      return url;
    },
    async stop(timeoutMs) {
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
      await ended;
      clearTimeout(late);
    },
    kill: () => void child.kill('SIGKILL'),
  };
}

async function answersReady(url: string): Promise<boolean> {
  try {
    const response = await fetch(`${url}/readyz`, { signal: AbortSignal.timeout(5_000) });
    await response.arrayBuffer();
    return response.ok;
  } catch {
    return false; // it has no time to answer yet, or has ended
  }
}
