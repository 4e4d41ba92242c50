/** Who may POST /ingest: holders of a token, where there are tokens, and no page of another site. */
import { hash, timingSafeEqual } from 'node:crypto';
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
  const digests = tokens.map(digest);
  return (request) => {
    refuseOtherSites(request);
    if (digests.length === 0) return;
    const given = /^Bearer +([^ ]+)$/i.exec(request.headers.authorization ?? '')?.[1];
    if (given === undefined) throw unauthorized('A token is needed: Authorization: Bearer <token>.', REALM);
    const sent = digest(given);
    // Each is compared, whichever matches, and digests are of one length: the time tells nothing of a token.
    const matches = digests.filter((digest) => timingSafeEqual(digest, sent));
    if (matches.length === 0) throw unauthorized('The token is not valid.', `${REALM}, error="invalid_token"`);
  };
}

const digest = (token: string): Buffer => hash('sha256', token, 'buffer');

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
