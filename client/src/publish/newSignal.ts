/** What a client may send as a signal, and how it is told what is wrong with it. */
import { z } from 'zod';

/** RFC 3339: the offset must be there, and an hour is 00 to 23. */
const RFC3339 =
  /^(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt](?:[01]\d|2[0-3]):[0-5]\d:)([0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;

/** True for a moment that exists; 30 February has the right shape and does not. */
function isMoment(text: string): boolean {
  const date = RFC3339.exec(text)?.[1];
  if (!date) return false;
  const day = new Date(`${date.slice(0, 10)}T00:00:00Z`);
  return !Number.isNaN(day.getTime()) && day.toISOString().slice(0, 10) === date.slice(0, 10);
}

/** PostgreSQL's jsonb takes neither U+0000 nor half of a surrogate pair; JSON.stringify writes both as escapes. */
const NOT_FOR_JSONB = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/;

function isStorable(attributes: unknown): boolean {
  try {
    return !NOT_FOR_JSONB.test(JSON.stringify(attributes));
  } catch {
    return false; // nested more deeply than the stack goes
  }
}

const NAME = 'expected 1 to 255 characters, none of them a control character';

/** Visible ASCII, which a header can carry. */
const VISIBLE = /^[\x21-\x7e]{1,255}$/;
export const isKey = (text: string): boolean => VISIBLE.test(text);
const KEY = 'expected 1 to 255 visible ASCII characters';

const newSignal = z.strictObject(
  {
    signal_name: z
      .string({ error: NAME })
      .refine((name) => name.length > 0 && [...name].length <= 255, { error: NAME })
      .refine((name) => !/\p{Cc}/u.test(name) && name.isWellFormed(), { error: NAME }),
    signal_value: z.number({ error: 'expected a finite number' }),
    timestamp: z
      .string({ error: 'expected RFC 3339 with an offset, such as 2026-04-02T16:23:17.123Z' })
      .refine(isMoment, { error: 'expected RFC 3339 with an offset, such as 2026-04-02T16:23:17.123Z' })
      .optional(),
    attributes: z
      .record(z.string(), z.unknown(), { error: 'expected an object' })
      .refine(isStorable, {
        error: 'expected text without U+0000 and without half a surrogate pair, not nested too deeply',
      })
      .optional(),
    key: z.string({ error: KEY }).regex(VISIBLE, { error: KEY }).optional(),
  },
  { error: (issue) => (issue.code === 'invalid_type' ? 'expected an object' : undefined) },
);

/**
 * A signal before it has its row: the table fills in what is left out. The same `key` again is the same row again, and
 * an error where it comes with another signal.
 */
export type NewSignal = z.infer<typeof newSignal>;

/** One thing that is wrong with a signal. `pointer` is a JSON Pointer (RFC 6901). */
export interface FieldError {
  pointer: string;
  detail: string;
}

/**
 * Checks a value that came from outside; returns the signal, or everything that is wrong with it.
 *
 * @param at where the value stands in what was sent, as a JSON Pointer.
 */
export function checkSignal(value: unknown, at = ''): { signal: NewSignal } | { errors: FieldError[] } {
  const result = newSignal.safeParse(value);
  if (result.success) return { signal: result.data };
  return {
    errors: result.error.issues.flatMap((issue) => {
      if (issue.code === 'unrecognized_keys') {
        return issue.keys.map((key) => ({
          pointer: `${at}/${escapePointer(key)}`,
          detail: `expected only signal_name, signal_value, timestamp, attributes and key`,
        }));
      }
      const came = issue.path.reduce<unknown>((at, key) => (at as Record<PropertyKey, unknown> | null)?.[key], value);
      const pointer = issue.path.map((key) => `/${escapePointer(String(key))}`).join('');
      return { pointer: at + pointer, detail: `${issue.message}, got ${describe(came)}` };
    }),
  };
}

const escapePointer = (key: string) => key.replaceAll('~', '~0').replaceAll('/', '~1');

/** A value as a message shows it: short, whatever was sent. */
function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  const json = JSON.stringify(value);
  return json.length > 80 ? `${json.slice(0, 80)}… (${json.length} characters)` : json;
}
