/** An installed copy of the project, in which `make run` is started, and the processes that it leaves. */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
} from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Copies what git tracks. */
export function copyFiles(directory: string): void {
  const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: root, encoding: 'utf8' });
  for (const file of files.trim().split('\n')) {
    if (!existsSync(path.join(root, file))) continue; // removed, but not yet in git
    mkdirSync(path.dirname(path.join(directory, file)), { recursive: true });
    copyFileSync(path.join(root, file), path.join(directory, file));
  }
}

/** Copies what git tracks, and links node_modules file by file, so that nothing has to be installed. */
export function copyProject(directory: string): void {
  copyFiles(directory);
  const modules = [path.join(root, 'node_modules'), directory];
  // A hard link can't cross file systems.
  if (spawnSync('cp', ['-al', ...modules]).status !== 0) execFileSync('cp', ['-a', ...modules]);
  // make compares its time with those of the files above. A new file, since a link would change the original's too.
  const installed = 'node_modules/.package-lock.json';
  rmSync(path.join(directory, installed));
  copyFileSync(path.join(root, installed), path.join(directory, installed));
}

/** Every process whose working directory is in one of the folders, as `pid command`. */
export function processesIn(...directories: string[]): string[] {
  const real = directories.map((directory) => realpathSync(directory));
  return readdirSync('/proc').flatMap((pid) => {
    if (!/^\d+$/.test(pid)) return [];
    try {
      const at = readlinkSync(`/proc/${pid}/cwd`);
      if (!real.some((directory) => `${at}/`.startsWith(`${directory}/`))) return [];
      return [`${pid} ${readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ').trim()}`];
    } catch {
      return []; // it has ended, or belongs to another user
    }
  });
}

/** The TCP ports on which processes that work in the folder listen. */
export function listeningPorts(directory: string): number[] {
  const sockets = processesIn(directory).flatMap((line) => {
    const fds = `/proc/${Number.parseInt(line, 10)}/fd`;
    return readdirSync(fds).map((fd) => /^socket:\[(\d+)]$/.exec(readlinkSync(path.join(fds, fd)))?.[1]);
  });
  const ports = ['tcp', 'tcp6'].flatMap((table) => {
    const lines = readFileSync(`/proc/net/${table}`, 'utf8').trim().split('\n').slice(1);
    return lines.flatMap((line) => {
      const [, local, , state, , , , , , inode] = line.trim().split(/\s+/);
      return state === '0A' && sockets.includes(inode) ? [Number.parseInt(local!.split(':')[1]!, 16)] : [];
    });
  });
  return [...new Set(ports)];
}

export interface MakeOptions {
  directory: string;
  variables?: Record<string, string | undefined>;
  user?: { uid: number; gid: number };
}

/** A `make run` as the person at the terminal sees it. */
export class MakeRun {
  readonly make: ChildProcess;
  /** Resolves with the exit code of make, or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals>;
  output = '';
  readonly #directory: string;
  readonly #looks = new Set<() => void>();

  constructor({ directory, variables, user }: MakeOptions) {
    this.#directory = directory;
    this.make = spawn('make', ['run'], {
      cwd: directory,
      env: { PATH: process.env.PATH, HOME: directory, ...variables },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // it leads a process group, like a command in a terminal
      ...user,
    });
    for (const stream of [this.make.stdout!, this.make.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
        for (const look of this.#looks) look();
      });
    }
    this.ended = new Promise((resolve) => this.make.once('close', (code, signal) => resolve(signal ?? code!)));
  }

  /** Resolves when the output matches; rejects when make ends before that. */
  async shows(pattern: RegExp): Promise<RegExpExecArray> {
    const { promise, resolve } = Promise.withResolvers<RegExpExecArray>();
    const look = () => {
      const found = pattern.exec(this.output);
      if (found) resolve(found);
    };
    this.#looks.add(look);
    look();
    const neverCame = this.ended.then((how) => {
      throw new Error(`make ended with ${how} and did not show ${pattern}:\n${this.output}`);
    });
    return Promise.race([promise, neverCame]).finally(() => this.#looks.delete(look));
  }

  /** Resolves with the producer's URL when everything is ready. */
  async ready(): Promise<string> {
    const [, address] = await this.shows(/^Ready after .* curl -X POST (localhost:\d+)\/ingest$/m);
    return `http://${address}`;
  }

  /** What `make url` prints. */
  databaseUrl(): string {
    return execFileSync('make', ['-s', 'url'], { cwd: this.#directory, encoding: 'utf8' }).trim();
  }

  /** The process id of the program that make started. */
  get runner(): number {
    return Number(execFileSync('pgrep', ['-P', String(this.make.pid)], { encoding: 'utf8' }));
  }

  /** As a terminal does: the signal goes to make and its whole process group. */
  pressCtrlC(): void {
    process.kill(-this.make.pid!, 'SIGINT');
  }
}
