/** `npm run migrate`: migrates the database that the environment names. */
import { config as loadDotenv } from 'dotenv';
import { messageOf } from './messageOf.ts';
import { migrate } from './migrate.ts';
import { databaseSettings } from './settings.ts';

const say = (line: string) => process.stdout.write(`${line}\n`);
const fail = (line: string) => {
  process.stderr.write(`${line}\n`);
  process.exitCode = 1;
};

if (process.argv.length > 2) {
  fail(`npm run migrate takes no arguments, got ${process.argv.slice(2).join(' ')}`);
  process.exit();
}
loadDotenv({ quiet: true });
const settings = databaseSettings({}).safeParse(process.env);
if (settings.success) {
  const url = settings.data.DATABASE_URL;
  const { host, pathname } = new URL(url);
  const database = host + pathname;
  try {
    const applied = await migrate(url);
    for (const name of applied) say(`applied ${name}`);
    say(applied.length > 0 ? `${database} is up to date` : `${database} was up to date: nothing to apply`);
  } catch (error) {
    fail(`Migrating ${database} failed: ${messageOf(error)}`);
  }
} else {
  for (const { path, message } of settings.error.issues) fail(`${path.join('.')}: ${message}`);
}
