/** `npm run migrate`: migrates the database that the environment names, and makes the roles of the services. */
import { config as loadDotenv } from 'dotenv';
import { z } from 'zod';
import { messageOf } from './messageOf.ts';
import { migrate } from './migrate.ts';
import { createRoles } from './roles.ts';
import { databaseSettings, textOfFile } from './settings.ts';

const say = (line: string) => process.stdout.write(`${line}\n`);
const fail = (line: string) => {
  process.stderr.write(`${line}\n`);
  process.exitCode = 1;
};
/** Empty is none. */
const password = z.string().regex(/^[\x20-\x7e]*$/, { error: 'expected a password in ASCII' });

if (process.argv.length > 2) {
  fail('npm run migrate takes no arguments: expected DATABASE_URL in the environment'); // not repeated: it may be a URL with a password
  process.exit();
}
loadDotenv({ quiet: true });
const settings = databaseSettings({
  SIGNALS_PRODUCER_PASSWORD: password.optional(),
  SIGNALS_CONSUMER_PASSWORD: password.optional(),
  SIGNALS_PRODUCER_PASSWORD_FILE: textOfFile.pipe(password).optional(),
  SIGNALS_CONSUMER_PASSWORD_FILE: textOfFile.pipe(password).optional(),
}).safeParse(process.env);
if (settings.success) {
  const { DATABASE_URL: url, ...given } = settings.data;
  const passwords = {
    signals_producer: given.SIGNALS_PRODUCER_PASSWORD || given.SIGNALS_PRODUCER_PASSWORD_FILE || '',
    signals_consumer: given.SIGNALS_CONSUMER_PASSWORD || given.SIGNALS_CONSUMER_PASSWORD_FILE || '',
  };
  const { host, pathname } = new URL(url);
  const database = host + pathname;
  try {
    const applied = await migrate(url);
    for (const name of applied) say(`applied ${name}`);
    say(applied.length > 0 ? `${database} is up to date` : `${database} was up to date: nothing to apply`);
    const left = await createRoles(url, passwords);
    if (left.length === 0) {
      say('the roles signals_producer and signals_consumer have what the services need');
    } else {
      say('-- This user may not make the roles of the services. For a superuser, in the same database:');
      for (const statement of left) say(statement);
      // Without a password no one has asked for the roles: services may connect as any user who has the rights.
      if (passwords.signals_producer || passwords.signals_consumer) process.exitCode = 1;
    }
  } catch (error) {
    fail(`Migrating ${database} failed: ${messageOf(error)}`);
  }
} else {
  for (const { path, message } of settings.error.issues) fail(`${path.join('.')}: ${message}`);
}
