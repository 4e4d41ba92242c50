/** Other users of this machine, for tests of what they can reach. Only root can start their processes. */
import { execFileSync, spawnSync } from 'node:child_process';

/** A user by name, as options of `spawn`. `daemon` and `games` are neither root nor `nobody`, who runs root's server. */
export function userNamed(name: 'daemon' | 'games'): { uid: number; gid: number } {
  const id = (flag: string) => Number(execFileSync('id', [flag, name], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

/** The files and folders below a directory, itself included, that another user can read. */
export function readableByOther(directory: string): string[] {
  const options = { cwd: '/', encoding: 'utf8', ...userNamed('games') } as const;
  return spawnSync('find', [directory, '-readable'], options).stdout.split('\n').filter(Boolean);
}
