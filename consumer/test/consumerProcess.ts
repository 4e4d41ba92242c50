/** A consumer service as a process of its own, for tests that kill it, or leave its log unread. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { NODE_FLAGS } from '@pg-signals/runtime';
import { onTestFailed } from 'vitest';
import type { Condition } from '../../client/test/testListener.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

export type Variables = Record<string, string>;

/** Its log is JSON. */
export class ConsumerProcess {
  readonly child: ChildProcess;
  /** Of the signals in its log, in their order. */
  readonly ids: number[] = [];
  log = '';
  readonly #logged: Condition;
  readonly #started: Promise<string>;
  #rest = '';

  /** @param logged changes with its log. */
  constructor(variables: Variables, logged: Condition, isRead = true) {
    this.#logged = logged;
    this.child = spawn(process.execPath, [...NODE_FLAGS, MAIN], {
      cwd: '/',
      env: { PATH: process.env.PATH, LOG_FORMAT: 'json', PORT: '0', ...variables },
      stdio: ['ignore', 'pipe', 'inherit', 'ipc'],
    });
    this.#started = once(this.child, 'message').then(([{ url }]) => url);
    if (isRead) this.read();
    onTestFailed(() => void process.stderr.write(`${this.log.slice(-3_000)}\n`));
  }

  /** From now on. */
  read(): void {
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.log += text;
      const lines = (this.#rest + text).split('\n');
      this.#rest = lines.pop()!;
      for (const line of lines) {
        const { message, id } = JSON.parse(line);
        if (message === 'notification received') this.ids.push(id);
      }
      this.#logged.changed();
    });
  }

  url = (): Promise<string> => this.#started;

  async killed(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }
}

/** Asks again and again, since another process gives no event; a request that fails counts as no. */
export async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds().catch(() => false)));
}
