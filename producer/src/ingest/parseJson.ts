/** Parses JSON, loses no digit of it silently, and says where it is wrong. */
import { Problem } from '@pg-signals/runtime';
import { type ParseErrorCode, printParseErrorCode, visit } from 'jsonc-parser';

/**
 * @throws {Problem} 400 with the line and column of the error. V8 gives a position in some of its messages only, so a text
 *   that it rejects is read again by a parser that always does.
 */
export function parseJson(text: string): unknown {
  try {
    return parseExactly(text);
  } catch (cause) {
    const found = firstError(text);
    if (!found) throw new Problem(400, `The body is not JSON: ${(cause as Error).message}.`, { cause });
    const { reason, offset } = found;
    const before = text.slice(0, offset).split('\n');
    const [line, column] = [before.length, before.at(-1)!.length + 1];
    throw new Problem(400, `The body is not JSON: ${reason} at line ${line}, column ${column} (position ${offset}).`, {
      members: { position: offset, line, column },
      cause,
    });
  }
}

/** Undefined where the text is nested too deeply for that parser, which is recursive. */
function firstError(text: string): { reason: string; offset: number } | undefined {
  let found: { reason: string; offset: number } | undefined;
  const onError = (code: ParseErrorCode, offset: number) => {
    found = { reason: printParseErrorCode(code), offset };
    throw new Error('found'); // the others are of no use
  };
  try {
    visit(text, { onError }, { disallowComments: true, allowTrailingComma: false, allowEmptyContent: false });
  } catch {}
  return found;
}

/** An integer of sixteen digits or more, or a text that holds one: a double may not hold it. */
const LONG_INTEGER = /(?:^|[^.\d])\d{16}/;

type Reviver = (this: unknown, key: string, value: unknown, context: { source?: string }) => unknown;

/**
 * `JSON.parse`, with an infinite number in attributes for each integer that a double does not hold, which the check of a
 * signal refuses: rounded, it would be another one. A fraction is the nearest double, and so is a `signal_value`.
 *
 * @throws {SyntaxError}
 */
export function parseExactly(text: string): unknown {
  const value = JSON.parse(text);
  if (!LONG_INTEGER.test(text)) return value;
  const exact = JSON.parse(text, ((_key, value, { source }) =>
    isRounded(value, source) ? Number.POSITIVE_INFINITY : value) as Reviver as never);
  const signals = [value].flat();
  [exact].flat().forEach((signal, index) => {
    if (signal?.attributes !== undefined) signals[index].attributes = signal.attributes;
  });
  return value;
}

function isRounded(value: unknown, source: string | undefined): boolean {
  if (typeof value !== 'number' || Number.isSafeInteger(value) || !/^-?\d+$/.test(source ?? '')) return false;
  return !Number.isFinite(value) || BigInt(source!) !== BigInt(value);
}
