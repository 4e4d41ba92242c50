/** The statements that insert signals, with and without idempotency keys. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, type PublishedSignal, queryWithin } from '@pg-signals/db';
import type { Pool, QueryArrayConfig } from 'pg';
import type { SignalRow } from './signalRow.ts';

/** The SQLSTATE that `fn_insert_keyed_signals` raises for a key that stands for something else. */
export const KEY_CONFLICT = 'SK409';

const COLUMNS = `id, to_json("timestamp" AT TIME ZONE 'UTC'), nullif(attributes, '{}')`;

/** Without `RETURNING`, which saves the server a tenth of its work. */
export const INSERT = `
  INSERT INTO public.signals ("timestamp", signal_name, signal_value, attributes)
  SELECT coalesce("timestamp", now()), signal_name, signal_value, coalesce(attributes, '{}')
  FROM unnest($1::timestamptz[], $2::text[], $3::double precision[], $4::jsonb[])
    WITH ORDINALITY AS new ("timestamp", signal_name, signal_value, attributes, position)
  ORDER BY position`;

const INSERT_RETURNING = `${INSERT} RETURNING ${COLUMNS}`;

/** For one signal, the common case under little load: cheaper to plan and to run than `unnest`. */
const INSERT_ONE = `
  INSERT INTO public.signals ("timestamp", signal_name, signal_value, attributes)
  VALUES (coalesce($1::timestamptz, now()), $2::text, $3::double precision, coalesce($4::jsonb, '{}'))
  RETURNING ${COLUMNS}`;

/** The value by its bits: as text it would be rounded by the session's `extra_float_digits`. */
const INSERT_KEYED = `
  SELECT ${COLUMNS}, signal_name, encode(float8send(signal_value), 'hex'), xid = pg_current_xact_id_if_assigned()
  FROM public.fn_insert_keyed_signals(
    $1::timestamptz[], $2::text[], $3::double precision[], $4::jsonb[], $5::text[], $6::int[], $7::bytea[])`;

/** Every column as the text that PostgreSQL sends. */
type Row = [
  id: string,
  timestamp: string,
  attributes: string | null,
  signal_name: string,
  signal_value: string,
  isNew: 't' | 'f',
];
const asText = { getTypeParser: () => (text: string) => text } as unknown as NonNullable<QueryArrayConfig['types']>;

const NO_ATTRIBUTES: PublishedSignal['attributes'] = Object.freeze({});

export interface Inserted {
  /** The rows of the signals, in the same order; `undefined` for each where none is wanted. */
  rows: (PublishedSignal | undefined)[];
  /** How many of the signals were not inserted, since their key was known: each has the row of the first time. */
  repeated: number;
}

/**
 * Inserts all signals in one transaction; resolves after the commit. A signal whose key is already known is not inserted
 * again.
 *
 * @throws what `queryWithin` throws. Only after a `NoAnswerError` may signals still be committed.
 */
export async function insertSignals(pool: Pool, signals: readonly SignalRow[], timeoutMs: number): Promise<Inserted> {
  const keyed = signals.some(({ key }) => key);
  const wanted = signals.some((signal) => signal.wanted);
  const statement = keyed
    ? insertKeyed(signals)
    : signals.length === 1
      ? insertOne(signals[0]!)
      : insertAll(signals, wanted);
  const query = { ...statement, rowMode: 'array', types: asText } as const;
  const rows = await withoutConflict(timeoutMs, () => runPrepared(pool, query, timeoutMs));
  const repeated = keyed ? rows.length - newIds(rows) : 0;
  if (!wanted) return { rows: new Array(signals.length).fill(undefined), repeated };
  return {
    rows: rows.map(([id, timestamp, attributes, signal_name, signal_value], index) => ({
      id: Number(id),
      timestamp: `${timestamp.slice(1, -1)}+00:00`,
      signal_name: keyed ? signal_name : signals[index]!.signal_name,
      signal_value: keyed ? Buffer.from(signal_value, 'hex').readDoubleBE() : signals[index]!.signal_value,
      attributes: attributes === null ? NO_ATTRIBUTES : JSON.parse(attributes),
    })),
    repeated,
  };
}

/** How many rows this transaction inserted: where it has a key twice, both answers are the same row. */
function newIds(rows: readonly Row[]): number {
  return new Set(rows.flatMap(([id, , , , , isNew]) => (isNew === 't' ? [id] : []))).size;
}

const insertOne = ({ timestamp, signal_name, signal_value, attributes }: SignalRow) => ({
  name: 'insert_signal',
  text: INSERT_ONE,
  values: [timestamp, signal_name, signal_value, attributes],
});

const insertAll = (signals: readonly SignalRow[], wanted: boolean) => ({
  name: wanted ? 'insert_signals' : 'insert_signals_without_rows',
  text: wanted ? INSERT_RETURNING : INSERT,
  values: insertColumns(signals),
});

const insertKeyed = (signals: readonly SignalRow[]) => ({
  name: 'insert_keyed_signals',
  text: INSERT_KEYED,
  values: [...insertColumns(signals), ...keyColumns(signals)],
});

/**
 * Runs an insert again where the server rolled it back in favour of another transaction (class 40: a serialization failure,
 * a deadlock), up to ten times in `timeoutMs`. It happens where the database's default is a stricter isolation than READ
 * COMMITTED.
 */
async function withoutConflict<T>(timeoutMs: number, insert: () => Promise<T>): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (let attempt = 1; ; attempt++) {
    try {
      return await insert();
    } catch (error) {
      const { code = '' } = error as { code?: string };
      if (!code.startsWith('40') || attempt === 10 || performance.now() > end) throw error;
      await sleep(backoff(attempt, { firstMs: 10, longestMs: 100 }));
    }
  }
}

/** Pools behind a pooler in transaction mode, where a session is shared with other clients. */
const unprepared = new WeakSet<Pool>();

/**
 * Runs a query as a prepared statement, which saves the server a third of the time of a lone insert.
 *
 * Behind a pooler a session loses its statements, or has those of other clients. The server says so before it runs
 * anything, and from then on the pool's queries go unprepared.
 */
async function runPrepared(pool: Pool, query: QueryArrayConfig, timeoutMs: number): Promise<Row[]> {
  const { name: _name, ...plain } = query;
  if (unprepared.has(pool)) return queryWithin<Row>(pool, plain, timeoutMs);
  try {
    return await queryWithin<Row>(pool, query, timeoutMs);
  } catch (error) {
    const { code } = error as { code?: string };
    // 26000: there is no such prepared statement; 42P05: there is one of that name already.
    if (code !== '26000' && code !== '42P05') throw error;
    unprepared.add(pool);
    return queryWithin<Row>(pool, plain, timeoutMs);
  }
}

/**
 * The parameters of `INSERT`, as the array literals that PostgreSQL reads. pg could write them from JavaScript arrays, but
 * that takes a tenth of the whole cost of a large batch. A column without any value is NULL, which `unnest` fills up.
 */
export function insertColumns(signals: readonly SignalRow[]): (string | null)[] {
  return [
    textArray(signals.map(({ timestamp }) => timestamp)),
    textArray(signals.map(({ signal_name }) => signal_name)),
    `{${signals.map(({ signal_value }) => signal_value).join()}}`,
    textArray(signals.map(({ attributes }) => attributes)),
  ];
}

function textArray(values: readonly (string | null)[]): string | null {
  if (values.every((value) => value === null)) return null;
  return `{${values.map((value) => (value === null ? 'NULL' : quoted(value))).join()}}`;
}

const quoted = (text: string) => (/["\\]/.test(text) ? `"${text.replace(/["\\]/g, '\\$&')}"` : `"${text}"`);

function keyColumns(signals: readonly SignalRow[]) {
  return [
    signals.map(({ key }) => key?.key ?? null),
    signals.map(({ key }) => key?.part ?? null),
    signals.map(({ key }) => key?.fingerprint ?? null),
  ];
}
