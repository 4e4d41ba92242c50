/** Turns payloads into rows: reads their JSON, and from the table those rows that did not fit into a notification. */
import type { Query } from '@pg-signals/db';
import type { Logger } from '../logger.ts';
import { readRows } from './committedRows.ts';
import type { FeedRow, FeedTable, TruncatedRow } from './feedTable.ts';
import type { Server } from './snapshot.ts';

/** Truncated rows read at a time, at most. */
const ROWS = 16;
/** Longer than any payload of a truncated row. */
const TRUNCATED_LENGTH = 80;

export interface PayloadObserver {
  /** A notification was no row. */
  invalidPayload(): void;
  /** A row was deleted before it could be read. */
  rowMissing(): void;
  /** A row was larger than `maxRowBytes`. */
  rowTooLarge(): void;
}

export interface PayloadsOptions<Row extends FeedRow> {
  table: FeedTable<Row>;
  query: Query;
  logger: Logger;
  observer: PayloadObserver;
  readTimeoutMs: number;
  /** Size of the largest row that is read, as JSON, and of those that are read together. */
  maxRowBytes: number;
}

export class Payloads<Row extends FeedRow> {
  readonly #options: PayloadsOptions<Row>;
  /** The transaction of the row parsed last, as text and as number: the rows of one come one after another. */
  #xidText = '0';
  #xid = 0;
  /** What was read together with a truncated row before it, by transaction and id. */
  readonly #ahead = new Map<string, string>();

  constructor(options: PayloadsOptions<Row>) {
    this.#options = options;
  }

  /** The row; undefined for a payload that is none, which is logged: anyone may NOTIFY the channel. */
  parse(payload: string): Row | TruncatedRow | undefined {
    const { table, logger, observer } = this.#options;
    try {
      const row = table.parse(payload);
      if (row.xid !== this.#xidText) this.#readXid(row.xid);
      return row;
    } catch (error) {
      observer.invalidPayload();
      const reason = (error as Error).message;
      const fields = { channel: table.channel, reason, payload: payload.slice(0, 200) };
      logger.warn('A payload could not be read, skipping it', fields);
      return undefined;
    }
  }

  /** The transaction of the row that was parsed last. */
  get xid(): number {
    return this.#xid;
  }

  #readXid(text: string): void {
    if (!isXid(text)) throw new Error('expected "xid" to be a transaction number');
    this.#xidText = text;
    this.#xid = Number(text);
  }

  /**
   * The row with its content, read on the server that has it. Those that come after it in `waiting` are read with it, so
   * that a run of large rows costs one query for every sixteen.
   *
   * Undefined, and logged, where the row is no longer in the table, is too large or can't be parsed.
   */
  async whole(row: TruncatedRow, waiting: Iterable<unknown>, server: Server): Promise<Row | undefined> {
    if (!this.#ahead.has(keyOf(row))) await this.#read([row, ...this.#truncatedRows(waiting)], server);
    const payload = this.#ahead.get(keyOf(row));
    this.#ahead.delete(keyOf(row));
    return payload === undefined ? undefined : (this.parse(payload) as Row | undefined);
  }

  async #read(rows: TruncatedRow[], server: Server): Promise<void> {
    const { query, table, logger, observer, readTimeoutMs: timeoutMs, maxRowBytes } = this.#options;
    this.#ahead.clear();
    const whole = await readRows({ query, table, server, timeoutMs }, rows, maxRowBytes);
    for (const [at, { payload }] of whole.entries())
      if (payload !== undefined) this.#ahead.set(keyOf(rows[at]!), payload);
    const { bytes, payload } = whole[0]!;
    if (payload !== undefined) return;
    const fields = { table: table.table, id: rows[0]!.id };
    if (bytes === undefined) {
      observer.rowMissing();
      logger.warn('A row was deleted before it could be read, skipping it', fields);
    } else {
      observer.rowTooLarge();
      logger.warn('A row is too large, skipping it', { ...fields, bytes, max_bytes: maxRowBytes });
    }
  }

  /** As many as are read at a time, with the one that they come after. */
  *#truncatedRows(waiting: Iterable<unknown>): Generator<TruncatedRow> {
    let count = 1;
    for (const payload of waiting) {
      if (count === ROWS) return;
      if (typeof payload !== 'string' || payload.length > TRUNCATED_LENGTH) continue;
      let row: Row | TruncatedRow;
      try {
        row = this.#options.table.parse(payload);
      } catch {
        continue; // logged when its turn comes
      }
      if (!('truncated' in row && isXid(row.xid))) continue;
      count++;
      yield row;
    }
  }
}

/** Up to 15 digits are exact as a number: three years of 10 million transactions a second. */
const isXid = (text: string) => /^\d{1,15}$/.test(text);

const keyOf = ({ id, xid }: TruncatedRow) => `${xid}:${id}`;
