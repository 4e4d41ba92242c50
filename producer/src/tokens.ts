/** `INGEST_TOKEN`, for the producer and for the command that sends to it. */

export const TOKENS_EXPECTED = 'expected tokens of visible ASCII characters, with a comma between two';

/** The tokens in a list with commas, the one to send first; undefined where one of them can't stand in a header. */
export function readTokens(list: string): readonly string[] | undefined {
  if (list.trim() === '') return [];
  const tokens = list.split(',').map((token) => token.trim());
  return tokens.every((token) => /^[\x21-\x7e]+$/.test(token)) ? tokens : undefined;
}
