/** A streaming standby of an embedded PostgreSQL, for tests and the chaos checker. */
import { execFileSync } from 'node:child_process';
import { appendFileSync } from 'node:fs';
import path from 'node:path';

/**
 * Makes `copy` the folder of a standby of the server in `directory`, which has to be stopped; `startEmbeddedPostgres` starts
 * either. Both are in one folder, which the server's user can enter.
 *
 * @param url the superuser's URL of the server.
 */
export function copyAsStandby(directory: string, copy: string, url: string): void {
  execFileSync('cp', ['-a', directory, copy]);
  const data = path.join(copy, 'data');
  execFileSync('cp', ['-a', path.join(data, 'PG_VERSION'), path.join(data, 'standby.signal')]); // with its owner
  const { port, username, password } = new URL(url);
  appendFileSync(
    path.join(data, 'postgresql.auto.conf'),
    `primary_conninfo = 'host=127.0.0.1 port=${port} user=${username} password=${password}'\n`,
  );
}
