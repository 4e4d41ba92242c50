/** Masks what may be a password in a text that is to be logged. */

/** A URL from its `://` on, up to what can't be part of one. */
const URL_PART = /:\/\/[^\s"'`<>]*/g;
/** `password=…` and the like, as in a connection string, in the environment or in JSON. */
const NAMED = /((?:password|passwd|token|secret)["']?\s*[=:]\s*)('[^']*|"[^"]*|[^\s"',;&]+)/gi;

/**
 * Replaces passwords by `***`: that of each URL, and what follows a name such as `PGPASSWORD=`. Masks too much rather than
 * too little.
 *
 * Takes time in proportion to the length of the text, whatever it holds: it may come from a stranger. So both patterns begin
 * with fixed letters, and no two of their matches can begin in the same run of characters.
 */
export function redact(text: string): string {
  const urls = text.includes('://') ? text.replace(URL_PART, maskUrl) : text;
  return urls.replace(NAMED, (_, name: string, value: string) => `${name}${/^["']/.exec(value) ?? ''}***`);
}

/** The password ends at the last `@`, since it may hold others. */
function maskUrl(part: string): string {
  const colon = part.indexOf(':', '://'.length);
  const at = part.lastIndexOf('@');
  return 0 < colon && colon < at ? `${part.slice(0, colon)}:***${part.slice(at)}` : part;
}
