/** One member of a group, as the checker sees it: its proxy, its process, which is killed and started again, and all its runs. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import type { ToConsumer } from '../consumers/messages.ts';
import type { GroupName } from './groupKinds.ts';
import { RunLogReader } from './runLog.ts';
import type { SpoilName } from './spoiled.ts';

const PROGRAM = fileURLToPath(new URL('./process.ts', import.meta.url));
/** Every wait of a stop is shorter: a handler that is held, a connection that is silent. */
const STOP_TIMEOUT_MS = 15_000;

export interface MemberOptions {
  readonly group: GroupName;
  readonly name: string;
  readonly cohort: number;
  /** The server's URL; the member gets it with the port of its proxy. */
  readonly url: string;
  /** For the files with its runs. */
  readonly directory: string;
  readonly onLog: (name: string, line: string) => void;
  readonly spoil?: SpoilName | undefined;
}

export class Member {
  readonly group: GroupName;
  readonly name: string;
  readonly cohort: number;
  readonly proxy: FaultyProxy;
  /** The runs of each of its processes. */
  readonly logs: RunLogReader[] = [];
  /** Why a process ended by itself, or did not when it was to stop. */
  readonly ends: string[] = [];
  readonly #options: MemberOptions;
  #child: ChildProcess | undefined;
  /** It was told to end, or killed. */
  #isEnding = false;
  #closed = false;
  /** What is done to the process comes one after another. */
  #turn: Promise<void> = Promise.resolve();

  constructor(options: MemberOptions) {
    this.group = options.group;
    this.name = options.name;
    this.cohort = options.cohort;
    this.proxy = new FaultyProxy(Number(new URL(options.url).port));
    this.#options = options;
  }

  /** The name of its connections in `pg_stat_activity`. */
  get applicationName(): string {
    return `chaos member ${this.name}`;
  }

  async start(): Promise<void> {
    await this.proxy.start();
    this.#spawn();
  }

  send(message: ToConsumer): void {
    if (this.#child?.connected) this.#child.send(message, () => {}); // it may just have ended
  }

  /** Its process ends by SIGKILL; another begins after `downMs`. */
  kill(downMs: number): Promise<void> {
    return this.#inTurn(async (child) => {
      this.#isEnding = true;
      child.kill('SIGKILL');
      await closed(child);
      await sleep(downMs);
      this.#spawn();
    });
  }

  /** SIGSTOP, and SIGCONT after `forMs`. */
  freeze(forMs: number): Promise<void> {
    return this.#inTurn(async (child) => {
      child.kill('SIGSTOP');
      await sleep(forMs);
      child.kill('SIGCONT');
    });
  }

  /** Leaves the group in order; another process joins after `downMs`. */
  restart(downMs: number): Promise<void> {
    return this.#inTurn(async (child) => {
      await this.#end(child);
      await sleep(downMs);
      this.#spawn();
    });
  }

  /** Leaves the group in order, for good. */
  stop(): Promise<void> {
    return this.#inTurn((child) => this.#end(child));
  }

  /** Ends everything at once. */
  close(): void {
    this.#closed = true;
    this.#isEnding = true;
    this.#child?.kill('SIGKILL');
    this.proxy.close();
  }

  #inTurn(work: (child: ChildProcess) => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(() => (this.#closed ? undefined : work(this.#child!)));
    return this.#turn;
  }

  async #end(child: ChildProcess): Promise<void> {
    this.#isEnding = true;
    const force = setTimeout(() => {
      this.ends.push(`did not stop within ${STOP_TIMEOUT_MS / 1_000} s`);
      child.kill('SIGKILL');
    }, STOP_TIMEOUT_MS);
    this.send({ type: 'stop' });
    await closed(child);
    clearTimeout(force);
  }

  #spawn(): void {
    if (this.#closed) return;
    const { group, name, directory, onLog, spoil = '' } = this.#options;
    const url = new URL(this.#options.url);
    url.port = String(this.proxy.port);
    const file = path.join(directory, `${name}.${this.logs.length + 1}.runs`);
    this.logs.push(new RunLogReader(file));
    const child = fork(PROGRAM, [group, this.applicationName, file, spoil], {
      // Not an argument, which every user of the machine can read: it is a superuser's password.
      env: { ...process.env, DATABASE_URL: url.href },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    this.#child = child;
    this.#isEnding = false;
    createInterface(child.stdout!).on('line', (line) => onLog(name, line));
    let errors = '';
    child.stderr!.on('data', (chunk) => {
      errors = (errors + chunk).slice(-2_000);
    });
    child.on('close', (code, signal) => {
      if (child !== this.#child || (this.#isEnding && (code === 0 || signal === 'SIGKILL'))) return;
      this.ends.push(errors.trim() || `ended with ${signal ?? `code ${code}`}`);
      if (!this.#isEnding) this.#spawn(); // as a supervisor would
    });
  }
}

async function closed(child: ChildProcess): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'close');
}
