/** An installed copy of the project, and the processes that work in it. */
import { execFileSync, spawnSync } from 'node:child_process';
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
