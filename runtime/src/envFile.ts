/** Reads `.env`, and refuses in it what docker compose would read as another value. */
import { existsSync, readFileSync } from 'node:fs';
import { parse } from 'dotenv';
import { SettingsError } from './settingsError.ts';

/** Name and raw value; a value in quotes may have several lines. */
const ASSIGNMENT =
  /^[ \t]*(?:export[ \t]+)?([\w.-]+)[ \t]*=[ \t]*('[^']*'(?=[ \t]*(?:#.*)?$)|"[^"]*"(?=[ \t]*(?:#.*)?$)|.*)/gm;

/**
 * The variables of a `.env`; none where there is no such file.
 *
 * docker compose takes `a#b` whole, where dotenv cuts it, and replaces `$b` and escapes outside single quotes, where dotenv
 * leaves them. So a value with such a character must stand in single quotes, which mean the same to both.
 *
 * @throws {SettingsError} naming every variable that the two would read differently.
 */
export function readEnvFile(file: string): Record<string, string> {
  if (!existsSync(file)) return {};
  const content = readFileSync(file, 'utf8').replaceAll('\r\n', '\n');
  const wrong = [...content.matchAll(ASSIGNMENT)].filter(([, , value]) => !isPlain(value!)).map(([, name]) => name);
  if (wrong.length === 0) return parse(content);
  throw new SettingsError(
    wrong
      .map((name) => `${name}: expected its value in ${file} in single quotes, which docker compose reads as we do`)
      .join('\n'),
  );
}

function isPlain(value: string): boolean {
  if (/^'[^']*'$|^"[^"$\\]*"$/.test(value)) return true;
  const unquoted = value.replace(/(^|\s)#.*$/, '');
  return !/^['"`]|[$#]/.test(unquoted);
}
