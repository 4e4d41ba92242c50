/** The settings of a consumer, from the environment. */
import { databaseSettings, SIGNAL_COLUMNS } from '@pg-signals/db';
import { commonVariables, duration, milliseconds, port, readSettings, wholeNumber } from '@pg-signals/runtime';
import { z } from 'zod';

const ORDER_EXPECTED = `expected a column of signals (${SIGNAL_COLUMNS.join(', ')}), or a path into attributes such as attributes.room`;

const schema = databaseSettings({
  ...commonVariables,
  PORT: port(8081),
  /** One connection listens; the others prove and read. */
  PG_POOL_MAX: wholeNumber(4, { min: 2 }),
  /** Time between two proofs that notifications arrive. */
  LISTEN_PROOF_INTERVAL_MS: milliseconds(5_000),
  /** Signals between two proofs. */
  LISTEN_PROOF_EVERY: wholeNumber(10_000),
  /** Longest wait for a proof, a connection or a small query. */
  LISTEN_PROOF_TIMEOUT_MS: milliseconds(5_000),
  /** Time between two reads of the table where LISTEN is unavailable. */
  LISTEN_POLL_MS: milliseconds(1_000),
  /** Time between two attempts to LISTEN there. */
  LISTEN_RETRY_MS: milliseconds(30_000),
  /** Notifications that wait at most; past that the table is read instead. */
  LISTEN_BUFFER_MAX: wholeNumber(10_000),
  /** Size of the largest signal that is delivered, as JSON; a larger one is skipped with a line in the log. */
  LISTEN_MAX_ROW_BYTES: wholeNumber(16 * 2 ** 20),
  /** The group to be a member of; without one, every signal comes here. */
  CONSUMER_GROUP: z
    .string()
    .regex(/^[A-Za-z0-9_.:-]{1,63}$/, { error: 'expected 1 to 63 letters, digits and _.:-' })
    .optional(),
  /** Where a new group begins. */
  CONSUMER_GROUP_FROM: z.enum(['latest', 'earliest']).default('latest'),
  /** Signals with the same value there are handled one after another. */
  CONSUMER_GROUP_ORDER: z.string().refine(isOrder, { error: ORDER_EXPECTED }).optional(),
  /** Signals handled at a time. */
  CONSUMER_GROUP_CONCURRENCY: wholeNumber(1),
  /** How long the handling of one signal may take. */
  CONSUMER_GROUP_TIMEOUT_MS: milliseconds(30_000),
  /** Runs of a signal after its first. */
  CONSUMER_GROUP_RETRIES: wholeNumber(5, { min: 0 }),
  /** How long a member that is not heard of keeps its lanes, and a replica its slot. */
  CONSUMER_GROUP_LEASE_MS: milliseconds(10_000),
  /** Time between two checkpoints. */
  CONSUMER_GROUP_CHECKPOINT_MS: milliseconds(1_000),
  /** Parts of the work, fixed when the group is made: as many members can share it. */
  CONSUMER_GROUP_LANES: wholeNumber(64, { max: 1_024 }),
  /** With `auto`, what is committed while this replica restarts comes afterwards. A group remembers by itself. */
  CONSUMER_SLOT: z.literal('auto', { error: 'expected auto, or nothing' }).optional(),
  /** For how long a slot that no replica holds is kept. */
  CONSUMER_SLOT_TTL: duration('1h'),
}).refine(({ CONSUMER_GROUP, CONSUMER_SLOT, PG_POOL_MAX }) => !(CONSUMER_GROUP ?? CONSUMER_SLOT) || PG_POOL_MAX >= 3, {
  path: ['PG_POOL_MAX'],
  error: 'expected a whole number of at least 3 with CONSUMER_GROUP or CONSUMER_SLOT',
});

function isOrder(order: string): boolean {
  const [column, ...path] = order.split('.');
  const isColumn = SIGNAL_COLUMNS.some((name) => name === column);
  return isColumn && (path.length === 0 || (column === 'attributes' && !path.includes('')));
}

export type ConsumerSettings = z.infer<typeof schema>;

/** @throws {SettingsError} naming every variable that is wrong. */
export const readConsumerSettings = (environment?: NodeJS.ProcessEnv): ConsumerSettings =>
  readSettings(schema, environment);
