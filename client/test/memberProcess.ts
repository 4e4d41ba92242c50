/** A member of a group as a child process, for tests that kill or freeze it. */
import { type ChildProcess, spawn } from 'node:child_process';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { expect, onTestFailed, onTestFinished } from 'vitest';
import type { Line, ProgramOptions } from './group/memberProgram.ts';
import type { Run } from './testGroup.ts';

const PROGRAM = path.join(import.meta.dirname, 'group/memberProgram.ts');

export class MemberProcess {
  readonly runs: (Omit<Run, 'member'> & { at: number })[] = [];
  /** What a handler that takes its time has finished. */
  readonly done: { id: number; at: number }[] = [];
  log = '';
  laneCount = 0;
  /** Resolves when it has ended and all that it printed is read. */
  readonly ended: Promise<unknown>;
  readonly #child: ChildProcess;

  /** Ends with the test, however that ends. */
  constructor(url: string, given: Partial<ProgramOptions> = {}) {
    const program: ProgramOptions = { url, options: {}, ...given };
    this.#child = spawn(process.execPath, [PROGRAM], {
      env: { ...process.env, MEMBER: JSON.stringify(program) },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    createInterface({ input: this.#child.stdout! }).on('line', (line) => this.#read(JSON.parse(line)));
    this.ended = new Promise((resolve) => this.#child.once('close', resolve));
    onTestFailed(() => void process.stdout.write(`${this.runs.length} runs of a process, its log:\n${this.log}`));
    onTestFinished(async () => {
      this.kill('SIGKILL');
      await this.ended;
    });
  }

  /** SIGKILL, SIGSTOP, SIGCONT; SIGTERM has it leave. */
  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Resolves when it has left. */
  leave(): Promise<unknown> {
    this.kill('SIGTERM');
    return this.ended;
  }

  /** Resolves when it stands still by a SIGSTOP, its own or ours. */
  async frozen(): Promise<void> {
    const { readFile } = await import('node:fs/promises');
    const state = async () => /\) (\S)/.exec(await readFile(`/proc/${this.#child.pid}/stat`, 'utf8'))?.[1];
    await expect.poll(state, { timeout: 15_000, interval: 10 }).toBe('T');
  }

  until(holds: () => boolean, timeout = 15_000): Promise<void> {
    return expect.poll(holds, { timeout, interval: 10 }).toBe(true);
  }

  lanes(count: number): Promise<void> {
    return this.until(() => this.laneCount === count);
  }

  get ids(): number[] {
    return this.runs.map(({ id }) => id);
  }

  #read(line: Line): void {
    if ('log' in line) this.log += `${line.log}\n`;
    else if ('lanes' in line) this.laneCount = line.lanes;
    else if ('done' in line) this.done.push({ id: line.done, at: line.at });
    else this.runs.push(line);
  }
}
