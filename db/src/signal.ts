/** A signal as producers and consumers see it, and the parser of its JSON. */

/** A row of the table `signals`, as a publisher gets it. */
export interface PublishedSignal {
  /** Unique in the table. A number is exact up to 2^53 - 1. */
  readonly id: number;
  /** RFC 3339 in UTC with up to six decimals of a second. Text, because a `Date` loses the microseconds. */
  readonly timestamp: string;
  readonly signal_name: string;
  readonly signal_value: number;
  readonly attributes: Readonly<Record<string, unknown>>;
}

/** A row as a consumer receives it on the channel `new_signals`. */
export interface Signal extends PublishedSignal {
  /** The id of the transaction that wrote the row, in decimal. A snapshot says by it whether it covers the row. */
  readonly xid: string;
}

/** Notified instead of a row that does not fit into 8,000 bytes: read it from the table. */
export interface TruncatedSignal {
  readonly id: number;
  readonly xid: string;
  readonly truncated: true;
}

/** The channel that the trigger `fn_new_signals` notifies. */
export const SIGNALS_CHANNEL = 'new_signals';

/** The columns of a `Signal`, in the order in which the trigger writes them. */
export const SIGNAL_COLUMNS = ['id', 'timestamp', 'signal_name', 'signal_value', 'attributes', 'xid'] as const;

/** A payload is no signal. Anyone may NOTIFY a channel, so this is to be reported and is no bug. */
export class PayloadError extends Error {
  override name = 'PayloadError';
}

/**
 * Parses the payload of a notification. Checked by hand instead of with a schema, because this runs hundreds of thousands of
 * times a second.
 *
 * @throws {PayloadError} when the payload is not the JSON of a signal; the message says what was expected.
 */
export function parseSignal(payload: string): Signal | TruncatedSignal {
  let row: Partial<Record<keyof Signal | 'truncated', unknown>>;
  try {
    row = JSON.parse(payload);
  } catch (error) {
    throw new PayloadError(`not JSON: ${(error as Error).message}`);
  }
  if (row === null || typeof row !== 'object') throw new PayloadError('expected a JSON object');
  if (!Number.isSafeInteger(row.id)) throw new PayloadError('expected "id" to be an integer');
  if (typeof row.xid !== 'string') throw new PayloadError('expected "xid" to be a string');
  if (row.truncated === true) return row as TruncatedSignal;
  if (typeof row.timestamp !== 'string') throw new PayloadError('expected "timestamp" to be a string');
  if (typeof row.signal_name !== 'string') throw new PayloadError('expected "signal_name" to be a string');
  if (typeof row.signal_value !== 'number') throw new PayloadError('expected "signal_value" to be a number');
  if (row.attributes === null || typeof row.attributes !== 'object' || Array.isArray(row.attributes)) {
    throw new PayloadError('expected "attributes" to be an object');
  }
  if (!row.timestamp.endsWith('+00:00')) (row as { timestamp: string }).timestamp = toUtc(row.timestamp);
  return row as Signal;
}

/** A date and time with an offset, in three groups: up to the seconds, their fraction, the offset. */
const RFC3339 = /^(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d(?::?\d\d)?)$/;

/**
 * Writes a moment in UTC as PostgreSQL does (`2026-04-02T16:23:17.123456+00:00`), with the same decimals.
 *
 * @throws {PayloadError} when the text is not a date and time with an offset.
 */
export function toUtc(timestamp: string): string {
  const parts = RFC3339.exec(timestamp);
  if (!parts) throw new PayloadError('expected "timestamp" to be RFC 3339 with an offset');
  const [, seconds = '', fraction = '', offset = ''] = parts;
  // Date parses only "+HH:MM"; PostgreSQL also writes "+HH".
  const colonOffset = /^[+-]\d\d$/.test(offset) ? `${offset}:00` : offset.replace(/^([+-]\d\d)(\d\d)$/, '$1:$2');
  const time = new Date(`${seconds.replace(' ', 'T')}${colonOffset}`);
  if (Number.isNaN(time.getTime())) throw new PayloadError('expected "timestamp" to be a date that exists');
  return `${time.toISOString().slice(0, 19)}${fraction}+00:00`;
}
