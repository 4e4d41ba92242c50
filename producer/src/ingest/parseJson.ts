/** Parses JSON, and says where it is wrong. */
import { Problem } from '@pg-signals/runtime';
import { type ParseError, parse as parseJsonc, printParseErrorCode } from 'jsonc-parser';

/**
 * @throws {Problem} 400 with the line and column of the error. V8 gives a position in some of its messages only, so a text
 *   that it rejects is parsed again by a parser that always does.
 */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    const found: ParseError[] = [];
    parseJsonc(text, found, { disallowComments: true, allowTrailingComma: false, allowEmptyContent: false });
    const offset = found[0]?.offset ?? text.length;
    const reason = found[0] ? printParseErrorCode(found[0].error) : (cause as Error).message;
    const before = text.slice(0, offset).split('\n');
    const [line, column] = [before.length, before.at(-1)!.length + 1];
    throw new Problem(400, `The body is not JSON: ${reason} at line ${line}, column ${column} (position ${offset}).`, {
      members: { position: offset, line, column },
      cause,
    });
  }
}
