/** A command as the person at a terminal sees it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';

export interface CommandOptions {
  directory: string;
  variables?: Record<string, string | undefined>;
  user?: { uid: number; gid: number };
}

export class Command {
  readonly child: ChildProcess;
  /** Resolves with its exit code, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals>;
  output = '';
  readonly #words: string[];
  readonly #looks = new Set<() => void>();

  constructor(words: string[], { directory, variables, user }: CommandOptions) {
    this.#words = words;
    this.child = spawn(words[0]!, words.slice(1), {
      cwd: directory,
      env: { PATH: process.env.PATH, HOME: directory, ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // it leads a process group, like a command in a terminal
      ...user,
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
        for (const look of this.#looks) look();
      });
    }
    this.ended = new Promise((resolve) => this.child.once('close', (code, signal) => resolve(signal ?? code!)));
  }

  /** Resolves when the output matches; rejects when the command ends before that. */
  async shows(pattern: RegExp): Promise<RegExpExecArray> {
    const { promise, resolve } = Promise.withResolvers<RegExpExecArray>();
    const look = () => {
      const found = pattern.exec(this.output);
      if (found) resolve(found);
    };
    this.#looks.add(look);
    look();
    const neverCame = this.ended.then((how) => {
      throw new Error(`${this.#words.join(' ')} ended with ${how} and did not show ${pattern}:\n${this.output}`);
    });
    return Promise.race([promise, neverCame]).finally(() => this.#looks.delete(look));
  }

  /** As a terminal does: the signal goes to the command and its whole process group. */
  pressCtrlC(): void {
    process.kill(-this.child.pid!, 'SIGINT');
  }
}

/** A `make run`. */
export class MakeRun extends Command {
  readonly #directory: string;

  constructor(options: CommandOptions) {
    super(['make', 'run'], options);
    this.#directory = options.directory;
  }

  /** Resolves with the producer's URL when everything is ready. */
  async ready(): Promise<string> {
    const [, address] = await this.shows(/^Ready after .* curl -X POST (\S+)\/ingest$/m);
    return `http://${address}`;
  }

  /** What `make url` prints. */
  databaseUrl(): string {
    return execFileSync('make', ['-s', 'url'], { cwd: this.#directory, encoding: 'utf8' }).trim();
  }

  /** The process id of the program that make started. */
  get runner(): number {
    return Number(execFileSync('pgrep', ['-P', String(this.child.pid)], { encoding: 'utf8' }));
  }
}
