/** What PostgreSQL can store of what failed. */
import { messageOf } from '@pg-signals/db';

/** Characters of an error that are kept: the log has it whole. */
const LONGEST_ERROR = 10_000;

/**
 * The error's message. Text in PostgreSQL has no NUL.
 *
 * @param isAscii for a database whose encoding lacks characters.
 */
export function storableError(error: Error, isAscii: boolean): string {
  const text = messageOf(error).slice(0, LONGEST_ERROR).replaceAll('\0', '\\u0000');
  return isAscii ? text.replace(/[\u0080-\uffff]/g, escaped) : text;
}

/** A row as `jsonb`: one that holds a NUL, which the type `json` lets pass, as a string that holds its JSON. */
export function storableJson(payload: string): string {
  return /(?<!\\)(\\\\)*\\u0000/.test(payload) ? JSON.stringify(payload) : payload;
}

const escaped = (character: string) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
