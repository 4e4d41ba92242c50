/** The fields of a new signal, and the check that names each wrong one. */
import { z } from 'zod';

/** RFC 3339: the offset is required, and an hour is 00 to 23. */
const RFC3339 =
  /^(\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])[Tt](?:[01]\d|2[0-3]):[0-5]\d:)([0-5]\d|60)(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;

/** True for a moment that exists: 30 February has the right shape but does not. */
function isMoment(text: string): boolean {
  const date = RFC3339.exec(text)?.[1];
  if (!date) return false;
  const day = new Date(`${date.slice(0, 10)}T00:00:00Z`);
  return !Number.isNaN(day.getTime()) && day.toISOString().slice(0, 10) === date.slice(0, 10);
}

/** PostgreSQL's jsonb rejects U+0000 and half of a surrogate pair; JSON.stringify writes both as escapes. */
const NOT_FOR_JSONB = /(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])/;

function isStorable(attributes: unknown): boolean {
  try {
    const json = JSON.stringify(attributes);
    if (json.includes('null')) JSON.stringify(attributes, requireFinite);
    return !NOT_FOR_JSONB.test(json);
  } catch {
    return false; // nested more deeply than the stack, or a number that requireFinite throws at
  }
}

/** JSON has no infinite number: what came as 1e400 would be stored as null. */
function requireFinite(_key: string, value: unknown): unknown {
  if (typeof value === 'number' && !Number.isFinite(value)) throw new RangeError('not finite');
  return value;
}

const NAME = 'expected 1 to 255 characters, none of them a control character';

const VISIBLE = /^[\x21-\x7e]{1,255}$/;
const KEY = 'expected 1 to 255 visible ASCII characters';

/** True for text that can be an idempotency key: 1 to 255 visible ASCII characters, which an HTTP header can carry. */
export const isKey = (text: string): boolean => VISIBLE.test(text);

const newSignal = z.strictObject(
  {
    signal_name: z
      .string({ error: NAME })
      .refine((name) => name.length > 0 && name.length <= 510 && [...name].length <= 255, { error: NAME })
      .refine((name) => !/\p{Cc}/u.test(name) && name.isWellFormed(), { error: NAME }),
    signal_value: z.number({ error: 'expected a finite number' }),
    timestamp: z
      .string({ error: 'expected RFC 3339 with an offset, such as 2026-04-02T16:23:17.123Z' })
      .refine(isMoment, { error: 'expected RFC 3339 with an offset, such as 2026-04-02T16:23:17.123Z' })
      .optional(),
    attributes: z
      .record(z.string(), z.unknown(), { error: 'expected an object' })
      .refine(isStorable, {
        error:
          'expected no U+0000, no half of a surrogate pair, no very deep nesting and no number that a double does not hold',
      })
      .optional(),
    key: z.string({ error: KEY }).regex(VISIBLE, { error: KEY }).optional(),
  },
  { error: (issue) => (issue.code === 'invalid_type' ? 'expected an object' : undefined) },
);

/**
 * A signal to publish. `timestamp` is the time of the transaction and `attributes` is `{}` where left out. A `key` makes
 * publishing idempotent: again with the same signal it gives the same row, with another one it fails as `key-conflict`.
 */
export type NewSignal = z.infer<typeof newSignal>;

/** One thing that is wrong with a signal. */
export interface FieldError {
  /** JSON Pointer (RFC 6901) to the field, or to the signal as a whole. */
  pointer: string;
  /** What was expected, and what came. */
  detail: string;
}

/**
 * Checks a value from outside; returns the signal, or everything that is wrong with it.
 *
 * @param at JSON Pointer to the value in what was sent.
 */
export function checkSignal(value: unknown, at = ''): { signal: NewSignal } | { errors: FieldError[] } {
  const result = newSignal.safeParse(value);
  // Not the copy that the check makes: it lacks an attribute named __proto__.
  if (result.success) return { signal: value as NewSignal };
  return {
    errors: result.error.issues.flatMap((issue) => {
      if (issue.code === 'unrecognized_keys') {
        return issue.keys.slice(0, MAX_KEYS).map((key) => ({
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

/** Unknown fields that are named. */
const MAX_KEYS = 100;

const escapePointer = (key: string) => shorten(key, 80).replaceAll('~', '~0').replaceAll('/', '~1');

/** A text for a message: what a client sends may be long, and a message repeats it for each line. */
export function shorten(text: string, characters: number): string {
  return text.length > characters ? `${text.slice(0, characters)}… (${text.length} characters)` : text;
}

/** A value as a message shows it, cut to 80 characters. */
function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'object' && value !== null) return 'an object';
  return shorten(JSON.stringify(value), 80);
}
