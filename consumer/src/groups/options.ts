/** The command line of `npm run groups`. */
import { parseArgs } from 'node:util';
import { toUtc } from '@pg-signals/db';
import type { ResetPosition } from 'pg-signals';

export const USAGE = `Shows consumer groups and slots, and changes them.

  npm run groups                              every group: its lanes, members and lag
  npm run groups -- show NAME                 its lanes with their owners, what is tried again, dead letters
  npm run groups -- retry NAME [ID…]          gives dead letters all their attempts again
  npm run groups -- drop-dead NAME [ID…]      deletes dead letters
  npm run groups -- reset NAME --to WHERE     begins again at earliest, latest, or the first signal at or after a
                                              moment (2026-04-02T16:23:17Z); running members follow
  npm run groups -- delete NAME               deletes a group that has no living member, with its dead letters

  ID              the id of a signal; without one, all dead letters of the group
  --limit N       retries and dead letters that show prints at most (20)
  --json          for programs: one JSON value on standard output
  --yes           no question before what can't be undone (drop-dead, reset, delete)
  --help

The database is that of DATABASE_URL, in the environment or in .env; its user owns the tables, or may change them.
Exit code: 0 done, 1 not done or not all of it, 2 wrong usage.
`;

export type Command =
  | { readonly name: 'list' }
  | { readonly name: 'show'; readonly group: string; readonly limit: number }
  | { readonly name: 'retry' | 'drop-dead'; readonly group: string; readonly ids: readonly number[] | undefined }
  | { readonly name: 'reset'; readonly group: string; readonly to: ResetPosition; readonly toText: string }
  | { readonly name: 'delete'; readonly group: string };

export interface GroupsOptions {
  command: Command;
  json: boolean;
  yes: boolean;
}

/** The command line is wrong; the message says how. */
export class UsageError extends Error {
  override name = 'UsageError';
}

/**
 * Reads the command line.
 *
 * @returns undefined for --help.
 * @throws {UsageError} that says what is wrong.
 */
export function readOptions(args: string[]): GroupsOptions | undefined {
  const { values, positionals } = parse(args);
  if (values.help) return undefined;
  const command = readCommand(positionals, values);
  if (values.to !== undefined && command.name !== 'reset') throw new UsageError('--to: expected with reset alone');
  if (values.limit !== undefined && command.name !== 'show') throw new UsageError('--limit: expected with show alone');
  return { command, json: values.json ?? false, yes: values.yes ?? false };
}

function readCommand([name = 'list', group, ...rest]: string[], given: { to?: string; limit?: string }): Command {
  switch (name) {
    case 'list':
      if (group !== undefined) throw new UsageError(`list takes no name, got ${group}: expected show ${group}`);
      return { name };
    case 'retry':
    case 'drop-dead':
      return { name, group: required(name, group), ids: rest.length > 0 ? rest.map(readId) : undefined };
    case 'show':
    case 'reset':
    case 'delete':
      if (rest.length > 0) throw new UsageError(`${name}: expected one name, got ${rest[0]} besides`);
      if (name === 'show') return { name, group: required(name, group), limit: readLimit(given.limit ?? '20') };
      if (name === 'delete') return { name, group: required(name, group) };
      if (given.to === undefined) throw new UsageError('reset: expected --to earliest, latest or a moment');
      return { name, group: required(name, group), to: readPosition(given.to), toText: given.to };
    default:
      throw new UsageError(`expected list, show, retry, drop-dead, reset or delete, got ${name}`);
  }
}

function required(command: string, group: string | undefined): string {
  if (group) return group;
  throw new UsageError(`${command}: expected the name of a group`);
}

function readId(text: string): number {
  const id = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(id)) return id;
  throw new UsageError(`expected the id of a signal, got ${text}`);
}

function readLimit(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new UsageError(`--limit: expected a whole number, got ${text}`);
}

function readPosition(text: string): ResetPosition {
  if (text === 'earliest' || text === 'latest') return text;
  try {
    return new Date(toUtc(text)); // a fraction of a ms is cut: a little earlier
  } catch {
    throw new UsageError(
      `--to: expected earliest, latest or a date and time with an offset (2026-04-02T16:23:17Z), got ${text}`,
    );
  }
}

function parse(args: string[]) {
  const flag = { type: 'boolean' } as const;
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: { to: text, limit: text, json: flag, yes: flag, help: flag },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}
