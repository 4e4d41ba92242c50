/** One consumer under test, as the checker sees it: its process, its proxy, and everything that it delivered. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import type { Delivery } from './check.ts';
import type { Deliveries, FromConsumer, ToConsumer } from './consumers/messages.ts';

const PROGRAM = fileURLToPath(new URL('./consumers/process.ts', import.meta.url));
/** After this time a supervisor starts a process again. */
const RESTART_MS = 500;
const STOP_TIMEOUT_MS = 5_000;
/** The line that our service logs for each signal. */
const LOGGED = /^\S+ INFO notification received id=(\d+) /;

export type ConsumerKind = 'ours' | 'pg-listen' | 'postgres' | 'pg';

export interface ConsumerOptions {
  readonly kind: ConsumerKind;
  readonly name: string;
  /** Consumers of one cohort are hit by the same faults at the same time. */
  readonly cohort: number;
  /** The server's URL; the consumer gets it with the port of its proxy. */
  readonly url: string;
  /** Called with each line that ours logs, but for those of the signals. */
  readonly onLog: (name: string, line: string) => void;
}

export class Consumer {
  readonly kind: ConsumerKind;
  readonly name: string;
  readonly cohort: number;
  readonly proxy: FaultyProxy;
  readonly #options: ConsumerOptions;
  readonly #listening = Promise.withResolvers<void>();
  readonly #chunks: Deliveries[] = [];
  #child: ChildProcess | undefined;
  #log: Interface | undefined;
  #stopping = false;
  /** How many signals it delivered, duplicates included. */
  received = 0;
  /** The ids of the signals in the log of ours, in order. */
  readonly logged: number[] = [];
  /** Why its process ended by itself, each time. */
  readonly ends: string[] = [];

  constructor(options: ConsumerOptions) {
    this.kind = options.kind;
    this.name = options.name;
    this.cohort = options.cohort;
    this.proxy = new FaultyProxy(Number(new URL(options.url).port));
    this.#options = options;
  }

  /** The name of its connections in `pg_stat_activity`. */
  get applicationName(): string {
    return `chaos consumer ${this.name}`;
  }

  /** Resolves when it listens; rejects where ours ends before. */
  async start(): Promise<void> {
    await this.proxy.start();
    this.#spawn();
    await this.#listening.promise;
  }

  send(message: ToConsumer): void {
    if (this.#child?.connected) this.#child.send(message, () => {}); // it may just have ended
  }

  /** Everything delivered so far, in order. */
  *deliveries(): Generator<Delivery> {
    for (const { ids, at, digests } of this.#chunks) {
      for (let i = 0; i < ids.length; i++) yield { id: ids[i]!, at: at[i]!, digest: digests[i]! };
    }
  }

  /** Reads nothing of the log of ours, until the returned function is called. */
  blockLog(): () => void {
    this.#log?.pause();
    return () => this.#log?.resume();
  }

  /** Stops the process, after a timeout by force. When this resolves, its last deliveries and lines have arrived. */
  async stop(): Promise<void> {
    this.#stopping = true;
    const child = this.#child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const force = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
    this.send({ type: 'stop' });
    await once(child, 'close');
    clearTimeout(force);
  }

  /** Ends everything at once. */
  close(): void {
    this.#stopping = true;
    this.#child?.kill('SIGKILL');
    this.proxy.close();
  }

  #spawn(): void {
    const url = new URL(this.#options.url);
    url.port = String(this.proxy.port);
    const child = fork(PROGRAM, [this.kind, this.applicationName], {
      // Not an argument, which every user of the machine can read: it is a superuser's.
      env: { ...process.env, DATABASE_URL: url.href },
      serialization: 'advanced',
      stdio: ['ignore', this.kind === 'ours' ? 'pipe' : 'ignore', 'pipe', 'ipc'],
    });
    this.#child = child;
    this.#log = child.stdout ? createInterface(child.stdout).on('line', this.#readLine) : undefined;
    let errors = '';
    child.stderr!.on('data', (chunk) => {
      errors = (errors + chunk).slice(-2_000);
    });
    child.on('message', (message: FromConsumer) => {
      if (message.type === 'listening') this.#listening.resolve();
      if (message.type !== 'deliveries') return;
      this.received += message.ids.length;
      this.#chunks.push(message);
    });
    child.on('close', (code, signal) => {
      if (this.#stopping) return;
      this.ends.push(errors.trim() || `ended with ${signal ?? `code ${code}`}`);
      // Ours must not end, so it is not started again. A rival gets the supervisor that its documentation assumes.
      if (this.kind !== 'ours') setTimeout(() => this.#stopping || this.#spawn(), RESTART_MS);
      else this.#listening.reject(new Error(`${this.name} ended before it listened: ${errors.trim()}`));
    });
  }

  #readLine = (line: string): void => {
    const id = LOGGED.exec(line)?.[1];
    if (id !== undefined) {
      this.logged.push(Number(id));
      return;
    }
    if (line.includes('Starting listener')) this.#listening.resolve();
    this.#options.onLog(this.name, line);
  };
}
