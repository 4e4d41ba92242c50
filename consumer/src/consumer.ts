/** The consumer, wired up: it follows the signals of a database, with HTTP for health and figures. */
import { createPool, createQuery, NoAnswerError, NotConnectedError, requireRights } from '@pg-signals/db';
import { createApp, createMetrics, type Logger, listen, type Service } from '@pg-signals/runtime';
import { broadcast } from './broadcast.ts';
import type { Following, FollowingParts } from './following.ts';
import { groupMember } from './groupMember.ts';
import type { ConsumerCallback } from './received.ts';
import type { ConsumerSettings } from './settings.ts';
import { slotHolder } from './slotHolder.ts';

/** For `/readyz` to ask for the user's rights, in ms: far below what a prober waits for its answer. */
const RIGHTS_TIMEOUT_MS = 1_000;

const ABOUT = `A consumer of pg-signals. Its log has a line for each signal; POST /ingest is at the producer.
`;

/**
 * Starts a consumer that logs each signal and delivers it to `callbacks`: every signal, with `CONSUMER_SLOT` from where the
 * replica before it stood; or as a member of `CONSUMER_GROUP` a share of them, each until all callbacks have succeeded with it.
 * The database may come later.
 *
 * `done` rejects with a `GroupMismatchError` where the group was made with other lanes or another order.
 *
 * @throws {PortTakenError} when `PORT`, or `HEALTH_PORT` in its place, is in use.
 * @throws {NoSuchHostError} when this machine has no address `HOST`.
 */
export async function startConsumer(
  settings: ConsumerSettings,
  logger: Logger,
  ...callbacks: ConsumerCallback[]
): Promise<Service> {
  const pool = createPool({
    connectionString: settings.DATABASE_URL,
    application_name: 'pg-signals consumer',
    max: settings.PG_POOL_MAX,
  });
  const metrics = createMetrics(logger, pool);
  const following = follow({ pool, settings, logger, metrics, callbacks });
  const query = createQuery(pool, RIGHTS_TIMEOUT_MS);
  let stopped: Promise<void> | undefined;
  const ready = async () => {
    if (stopped) throw new Error('The consumer is stopping.');
    if (logger.lines.room()) throw new Error('The log is not being read, and signals wait for that.');
    // Without SELECT small signals still come, as notifications, and the proofs succeed.
    await requireRights(query, 'signals_consumer').catch(ignoreNoAnswer);
    await following.requireLevel();
  };
  const app = createApp({ about: ABOUT, logger, metrics, ready });
  // Nothing else is served yet, so there is one port.
  const { HOST: host, PORT, HEALTH_PORT } = settings;
  const variable = HEALTH_PORT === undefined ? 'PORT' : 'HEALTH_PORT';
  const server = await listen(app, HEALTH_PORT ?? PORT, { host, variable }).catch(async (error) => {
    await pool.end();
    throw error;
  });
  logger.info('Consumer serves health and metrics', { url: server.url });
  const abort = new AbortController();
  const done = following.start(abort.signal);

  const stop = async () => {
    abort.abort();
    await done.catch(() => {}); // whoever has `done` knows
    await Promise.all([server.stop(), pool.end()]);
  };
  return { url: server.url, done, stop: () => (stopped ??= stop()) };
}

function follow(parts: FollowingParts): Following {
  const { CONSUMER_GROUP: group, CONSUMER_SLOT: slot } = parts.settings;
  if (group !== undefined) return groupMember(group, parts);
  return slot === undefined ? broadcast(parts) : slotHolder(parts);
}

/** A database that does not answer now is what the age of the last proof tells. */
function ignoreNoAnswer(error: unknown): void {
  if (!(error instanceof NotConnectedError || error instanceof NoAnswerError)) throw error;
}
