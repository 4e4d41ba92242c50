/** Starts programs, talks with them, waits for them and stops them. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { endWithUs } from '@pg-signals/local/end-with-us';

const MESSAGE_TIMEOUT_MS = 120_000;

export interface ProgramOptions {
  /** Added to PATH; a program inherits nothing else. */
  env?: Record<string, string>;
  /** `/` by default, where no service finds a .env. */
  cwd?: string;
  /** What it writes: `pipe` to read it from `child`, a number for an open file. Ours (`ignore`, `inherit`) by default. */
  stdout?: 'ignore' | 'pipe' | number;
  stderr?: 'ignore' | 'pipe' | 'inherit' | number;
}

/** A started program. It never outlives this process. */
export class Program implements AsyncDisposable {
  readonly child: ChildProcess;
  readonly pid: number;
  /** Aborts when the program ends; the reason says how. */
  readonly ended: AbortSignal;

  /** Starts `command`: a path and arguments. A Node program also gets a channel for messages. */
  constructor([file, ...args]: readonly string[], options: ProgramOptions = {}) {
    const { env, cwd = '/', stdout = 'ignore', stderr = 'inherit' } = options;
    const ended = new AbortController();
    this.ended = ended.signal;
    this.child = spawn(file!, args, {
      cwd,
      env: { PATH: process.env.PATH, ...env },
      stdio: ['ignore', stdout, stderr, ...(file === process.execPath ? ['ipc' as const] : [])],
      serialization: 'advanced', // a bigint passes
    });
    this.pid = this.child.pid!;
    this.child.once('error', (error) => ended.abort(error));
    this.child.once('exit', (code, signal) =>
      ended.abort(new Error(`${[file, ...args].join(' ')} ended with ${signal ?? `code ${code}`}`)),
    );
    endWithUs(this.child, 'TERM');
  }

  /** Resolves with its next message. @throws {Error} when it ends first, or sends none for two minutes. */
  async message<T>(): Promise<T> {
    const signal = AbortSignal.any([this.ended, AbortSignal.timeout(MESSAGE_TIMEOUT_MS)]);
    const [message] = await once(this.child, 'message', { signal });
    return message as T;
  }

  /** Sends it a message, and resolves with its answer. */
  ask<T>(message: string | number | object): Promise<T> {
    const answer = this.message<T>();
    this.child.send(message);
    return answer;
  }

  /** Stops it with SIGTERM. Resolves when it has ended. */
  async stop(): Promise<void> {
    if (this.ended.aborted) return;
    const exit = once(this.child, 'exit');
    this.child.kill('SIGTERM');
    this.child.kill('SIGCONT'); // one that a relay has suspended would never see the SIGTERM
    await exit;
  }

  [Symbol.asyncDispose] = () => this.stop();
}

/** Calls `check` every 20 ms until it does not throw. @throws {Error} with its last message when `signal` aborts first. */
export async function retry<T>(check: () => Promise<T>, signal: AbortSignal = AbortSignal.timeout(20_000)): Promise<T> {
  for (;;) {
    try {
      return await check();
    } catch (cause) {
      if (signal.aborted) throw new Error(`${(cause as Error).message}: ${signal.reason.message}`, { cause });
    }
    await sleep(20);
  }
}

/** Runs a program to its end. Resolves with what it printed. */
export async function run([file, ...args]: readonly string[], cwd = '/'): Promise<string> {
  return (await promisify(execFile)(file!, args, { cwd, timeout: 300_000 })).stdout;
}
