/**
 * The role of `make run`'s services: it owns the database `signals` and is no superuser, who could read files and run
 * programs as whoever typed `make run`.
 */
import { existsSync, readFileSync } from 'node:fs';
import pg from 'pg';
import { randomPassword } from './embedded.ts';
import { writeSecret } from './embeddedHome.ts';

const OWNER = 'signals';

/**
 * Creates the role at the first start. Its password stays the same as long as the data: programs and `.env` files hold it.
 *
 * @param file where the URL is kept for `make url`, with the port of this start.
 * @returns the URL to connect as that role.
 */
export async function prepareOwner(superuserUrl: string, file: string): Promise<string> {
  const url = new URL(superuserUrl);
  url.username = OWNER;
  url.password = existsSync(file) ? new URL(readFileSync(file, 'utf8').trim()).password : randomPassword();
  const client = new pg.Client({ connectionString: superuserUrl });
  await client.connect();
  try {
    const { rowCount } = await client.query('SELECT FROM pg_roles WHERE rolname = $1', [OWNER]);
    if (rowCount === 0) await client.query(`CREATE ROLE ${OWNER} LOGIN`);
    await client.query(`ALTER ROLE ${OWNER} PASSWORD '${url.password}'`);
    await client.query(`ALTER DATABASE signals OWNER TO ${OWNER}`);
  } finally {
    await client.end();
  }
  writeSecret(file, `${url.href}\n`);
  return url.href;
}
