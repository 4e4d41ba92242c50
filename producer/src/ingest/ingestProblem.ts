/** The HTTP answer to a signal that was not published. */
import { Problem } from '@pg-signals/runtime';
import type { PublishError } from 'pg-signals';

/** In seconds: a queue of 10,000 signals is inserted in less. */
const RETRY_AFTER = { 'Retry-After': '1' };

export function toIngestProblem(error: PublishError): Problem {
  const { failure, message, mayBeIn, errors, cause } = error;
  const members = errors.length > 0 ? { errors } : {};
  const fate = mayBeIn
    ? 'The signal may have been inserted: with an Idempotency-Key it is safe to send it again.'
    : 'The signal was not inserted: send it again.';
  const unable = (detail: string) =>
    new Problem(503, detail, { members: { may_be_in: mayBeIn }, headers: RETRY_AFTER, cause });
  switch (failure) {
    case 'invalid':
      return new Problem(422, `${errors[0]?.pointer ? '' : 'The body: '}${message}.`, { members });
    case 'refused':
      return new Problem(422, `The database refuses this signal: ${message}.`, { members, cause });
    case 'key-conflict':
      return new Problem(409, `${message}.`, { cause });
    case 'overloaded':
      return unable(`Too many signals wait for the database. ${fate}`);
    case 'timeout':
      return unable(`The database did not answer in time (INGEST_TIMEOUT_MS). ${fate}`);
    case 'notify-queue-full':
      return unable(`The database's NOTIFY queue is full, because a session listens in an open transaction. ${fate}`);
    case 'no-free-id':
      return unable(`The database's sequence of ids gives no free id. ${fate}`);
    case 'unavailable':
      return new Problem(500, `The database can't be reached or can't insert now. ${fate}`, {
        members: { may_be_in: mayBeIn },
        cause,
      });
  }
}
