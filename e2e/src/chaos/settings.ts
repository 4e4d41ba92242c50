/** Odd settings of a database and of the role that consumes: no one must notice them. */
import pg from 'pg';
import type { Random } from './random.ts';

/** The role that every consumer connects as. */
export const CONSUMER = 'signals_consumer';
/** The role that every member of a group connects as. It has all rights of a consumer, and settings of its own. */
export const MEMBER = 'signals_member';
/** A role that may connect, and nothing else. */
export const FORGER = 'forger';

/** Of the database or of the role. Not `lc_messages`: the PostgreSQL from npm has no translations. */
export const ODD_SETTINGS: Record<string, readonly string[]> = {
  timezone: ['America/New_York', 'Europe/Berlin', 'Asia/Kathmandu'],
  datestyle: ['SQL, DMY', 'German', 'Postgres, MDY'],
  intervalstyle: ['sql_standard', 'iso_8601'],
  extra_float_digits: ['-10', '0'],
  bytea_output: ['escape'],
  search_path: ['elsewhere'],
  standard_conforming_strings: ['off'],
  transform_null_equals: ['on'],
  quote_all_identifiers: ['on'],
  default_transaction_isolation: ['serializable', 'repeatable read'],
  'plpgsql.variable_conflict': ['use_column'],
};

/** Of the role alone: no writer could work with the first, or be sure of its commits with the second. */
const OF_READERS = { default_transaction_read_only: ['on'], synchronous_commit: ['off'] };

/** A schema for `search_path`, in which everyone finds other tables under the names of ours. */
export const DECOYS = `
  CREATE SCHEMA elsewhere GRANT ALL ON SCHEMA elsewhere TO PUBLIC
  CREATE TABLE elsewhere.signals (LIKE pg_class) CREATE TABLE elsewhere.signal_keys (LIKE pg_class)`;

/** Draws half of the settings, each for the database or for the role, and resets the others. New sessions have them. */
export async function setOddly(client: pg.Client, role: string, random: Random): Promise<void> {
  const database = `DATABASE ${pg.escapeIdentifier(client.database!)}`;
  const ofRole = `ROLE ${pg.escapeIdentifier(role)}`;
  const changes = [`ALTER ${database} RESET ALL`, `ALTER ${ofRole} RESET ALL`];
  for (const [name, values] of Object.entries({ ...ODD_SETTINGS, ...OF_READERS })) {
    const owner = name in OF_READERS || random.chance(0.5) ? ofRole : database;
    if (random.chance(0.5)) changes.push(`ALTER ${owner} SET ${name} = ${pg.escapeLiteral(random.pick(values))}`);
  }
  await client.query(changes.join('; '));
}
