/** A member of a group, which shares the signals with the others. */
import type { Logger } from '@pg-signals/runtime';
import { Group, type Handler, type Lag, type Signal } from 'pg-signals';
import { type Following, type FollowingParts, listenerOptions, requireFresh } from './following.ts';
import { groupLag } from './groupLag.ts';
import { createGroupMetrics } from './groupMetrics.ts';
import { createListenerMetrics } from './metrics.ts';
import { logSignal } from './received.ts';

export function groupMember(name: string, { pool, settings, logger, metrics, callbacks }: FollowingParts): Following {
  const readLag = groupLag(() => group);
  const group: Group = new Group(
    pool,
    {
      ...listenerOptions(settings, logger),
      name,
      from: settings.CONSUMER_GROUP_FROM,
      lanes: settings.CONSUMER_GROUP_LANES,
      ...(settings.CONSUMER_GROUP_ORDER !== undefined && { order: settings.CONSUMER_GROUP_ORDER }),
      concurrency: settings.CONSUMER_GROUP_CONCURRENCY,
      timeoutMs: settings.CONSUMER_GROUP_TIMEOUT_MS,
      retries: settings.CONSUMER_GROUP_RETRIES,
      leaseMs: settings.CONSUMER_GROUP_LEASE_MS,
      checkpointMs: settings.CONSUMER_GROUP_CHECKPOINT_MS,

      flush: () => logger.lines.written(),
      observer: {
        ...createListenerMetrics(metrics, () => group.proofAgeMs),
        ...createGroupMetrics(metrics, name, () => group, readLag),
      },
    },
    all([logHandled(logger, settings.CONSUMER_GROUP_TIMEOUT_MS), ...callbacks]),
  );
  return {
    start: (signal) => group.start(signal),
    async requireLevel() {
      if (!group.isMember) {
        throw new Error(`Not a member of the group ${name} now: the log says why, and what is tried next.`);
      }
      if (group.proofAgeMs === undefined) requireNoBacklog(await readLag());
      requireFresh(group.proofAgeMs, settings);
    },
  };
}

/** @throws {Error} whose message says how much there is to read. */
function requireNoBacklog(lag: Lag | undefined): void {
  if (!lag || lag.lag_rows === 0) return;
  const { lag_rows, lag_at_least, lag_seconds } = lag;
  const atLeast = lag_at_least ? 'at least ' : '';
  throw new Error(`Reading a backlog of ${atLeast}${lag_rows} signals, ${lag_seconds.toFixed(1)} s behind.`);
}

/**
 * A line that waits counts as handled, since no checkpoint is stored before it is written (`flush`). So where the log has no room
 * this only slows down: a log that is not read must not make a signal a dead letter.
 */
function logHandled(logger: Logger, timeoutMs: number): Handler<Signal> {
  const log = logSignal(logger);
  return (signal, context) => {
    const { dropped } = logger.lines;
    const room = log(signal, context);
    if (logger.lines.dropped > dropped) throw new Error('the log has no room for this signal');
    return room && within(timeoutMs / 2, room);
  };
}

/** Calls all of them; the signal is handled when all have succeeded. */
function all(handlers: readonly Handler<Signal>[]): Handler<Signal> {
  if (handlers.length === 1) return handlers[0]!;
  return async (signal, context) => {
    const outcomes = await Promise.allSettled(handlers.map(async (handler) => handler(signal, context)));
    const failed = outcomes.find((outcome) => outcome.status === 'rejected');
    if (failed) throw failed.reason;
  };
}

/** Resolves with the promise, or after so many ms. */
function within(ms: number, promise: Promise<void>): Promise<void> {
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(late.resolve, ms);
  return Promise.race([promise, late.promise]).finally(() => clearTimeout(timer));
}
