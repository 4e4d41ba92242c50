/** `make url`: prints the address, with the password, of the database that `make run` or docker compose has started here. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';

const url = (await urlOfMakeRun()) ?? urlOfCompose();
if (url) {
  process.stdout.write(`${url}\n`);
} else {
  process.stderr.write('No database runs here: start one with make run or docker compose up -d --build\n');
  process.exitCode = 1;
}

async function urlOfMakeRun(): Promise<string | undefined> {
  try {
    const url = readFileSync('.data/postgres/url', 'utf8').trim();
    const { port, hostname } = new URL(url);
    const socket = connect(Number(port), hostname); // the file stays when the server has stopped
    await once(socket, 'connect');
    socket.destroy();
    return url;
  } catch {
    return undefined;
  }
}

function urlOfCompose(): string | undefined {
  const print = 'printf "%s\\n" "$POSTGRES_USER" "$POSTGRES_DB"; cat /passwords/password';
  try {
    const address = compose('port', 'db', '5432');
    const [user, database, password] = compose('exec', '-T', 'db', 'sh', '-c', print).split('\n');
    return `postgres://${encodeURIComponent(user!)}:${encodeURIComponent(password!)}@${address}/${encodeURI(database!)}`;
  } catch {
    return undefined; // no Docker, or nothing that runs
  }
}

function compose(...args: string[]): string {
  return execFileSync('docker', ['compose', ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
}
