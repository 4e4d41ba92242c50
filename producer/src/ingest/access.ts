/** Who may POST /ingest: holders of a token, where there are tokens, and no page of another site. */
import { timingSafeEqual } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { Problem } from '@pg-signals/runtime';

const REALM = 'Bearer realm="pg-signals"';

/**
 * Returns the check of a request.
 *
 * @param tokens any of them lets a request in, as `Authorization: Bearer <token>`; without any, all are let in.
 * @throws {Problem} (the check) 403 for a page of another site, 401 without a token or with a wrong one.
 */
export function createAccessCheck(tokens: readonly string[]): (request: IncomingMessage) => void {
  // All of one length, so that the time to compare tells nothing of a token: filled up with zeros, which no header holds. The
  // last byte of each is one, so that no longer text matches. Hashing them would take 2 µs of each request.
  const length = 1 + Math.max(...tokens.map((token) => token.length));
  const expected = tokens.map((token) => Buffer.alloc(length, 0).fill(token, 0, token.length, 'latin1'));
  const sent = Buffer.alloc(tokens.length === 0 ? 0 : length);
  return (request) => {
    refuseOtherSites(request);
    if (tokens.length === 0) return;
    const given = /^Bearer +([^ ]+)$/i.exec(request.headers.authorization ?? '')?.[1];
    if (given === undefined) throw unauthorized('A token is needed: Authorization: Bearer <token>.', REALM);
    sent.fill(0).write(given, 'latin1');
    const matches = expected.filter((token) => timingSafeEqual(token, sent)); // each is compared, whichever matches
    if (matches.length === 0) throw unauthorized('The token is not valid.', `${REALM}, error="invalid_token"`);
  };
}

function unauthorized(detail: string, challenge: string): Problem {
  return new Problem(401, detail, { headers: { 'WWW-Authenticate': challenge } });
}

/**
 * A page that a developer or an operator visits could make their browser post to a producer that only they reach. Browsers
 * say where a request comes from, and other clients say nothing. `Sec-Fetch-Site` is sent over HTTPS and to localhost;
 * elsewhere `Origin` has to name this host.
 */
function refuseOtherSites({ headers }: IncomingMessage): void {
  const { origin, host, 'sec-fetch-site': site } = headers;
  if (site === undefined && origin === undefined) return;
  const isOurs =
    site === undefined ? URL.parse(origin!)?.host === (host ?? '') : site === 'same-origin' || site === 'none';
  if (!isOurs) throw new Problem(403, 'A page of another site may not send signals.');
}
