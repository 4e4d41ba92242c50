/** `npm run groups`: shows consumer groups and slots, and changes them. */
import { createPool, createQuery, databaseSettings } from '@pg-signals/db';
import { readSettings, SettingsError } from '@pg-signals/runtime';
import { GroupError, missingGroupRights } from 'pg-signals';
import { run } from './commands.ts';
import { canAsk } from './confirm.ts';
import { type Command, readOptions, USAGE, UsageError } from './options.ts';

const INSUFFICIENT_PRIVILEGE = '42501';
const UNDEFINED_TABLE = '42P01';
const READ_ONLY = '25006';
const RIGHTS_TIMEOUT_MS = 10_000;

const say = (line: string) => process.stderr.write(`${line}\n`);

/** @returns the exit code. */
async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2));
  if (!options) {
    process.stdout.write(USAGE);
    return 0;
  }
  const { command, json, yes } = options;
  if (!yes && ['drop-dead', 'reset', 'delete'].includes(command.name) && !canAsk()) {
    throw new UsageError(`${command.name} can't be undone: expected --yes where there is no terminal to ask on`);
  }
  const { DATABASE_URL: connectionString } = readSettings(databaseSettings({}));
  const pool = createPool({ connectionString, application_name: 'pg-signals groups', max: 1 });
  try {
    const answer = await run(pool, command, yes);
    if (!answer) {
      say('nothing was changed');
      return 1;
    }
    process.stdout.write(json ? `${JSON.stringify(answer.json, null, 2)}\n` : answer.text);
    for (const problem of answer.problems ?? []) say(problem);
    return answer.problems?.length ? 1 : 0;
  } catch (error) {
    throw await explained(error as Error & { code?: string }, command, pool);
  } finally {
    await pool.end();
  }
}

/** Says what to do about an answer of the database. */
async function explained(
  error: Error & { code?: string },
  { name }: Command,
  pool: ReturnType<typeof createPool>,
): Promise<Error> {
  const because = (what: string) => new Error(`${error.message}: ${what}`, { cause: error });
  if (error.code === UNDEFINED_TABLE) return because('run npm run migrate');
  if (error.code === READ_ONLY) return because('connect to the primary, as a user who may write');
  if (error.code !== INSUFFICIENT_PRIVILEGE) return error;
  const changes = name !== 'list' && name !== 'show';
  const missing = await missingGroupRights(createQuery(pool, RIGHTS_TIMEOUT_MS), { changes });
  return missing.length === 0 ? error : because(`run it as the owner of the tables, or GRANT ${missing.join('; ')}`);
}

try {
  process.exitCode = await main();
} catch (error) {
  const { message } = error as Error;
  if (error instanceof UsageError) say(`${message}\n\n${USAGE}`);
  else say(error instanceof GroupError || error instanceof SettingsError ? message : `failed: ${message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
