/** Turns payloads into rows: reads their JSON, and from the table those rows that did not fit into a notification. */
import type { Query } from '@pg-signals/db';
import type { Logger } from '../logger.ts';
import { readRows } from './committedRows.ts';
import type { FeedRow, FeedTable, TruncatedRow } from './feedTable.ts';

/** Truncated rows read at a time: each has 8,000 bytes or more, perhaps a megabyte, and memory is bounded. */
const ROWS = 16;
/** Longer than any payload of a truncated row. */
const TRUNCATED_LENGTH = 80;

export interface PayloadObserver {
  /** A notification was no row. */
  invalidPayload(): void;
  /** A row was deleted before it could be read. */
  rowMissing(): void;
}

export interface PayloadsOptions<Row extends FeedRow> {
  table: FeedTable<Row>;
  query: Query;
  logger: Logger;
  observer: PayloadObserver;
  readTimeoutMs: number;
}

export class Payloads<Row extends FeedRow> {
  readonly #options: PayloadsOptions<Row>;
  /** The transaction of the row parsed last, as text and as number: the rows of one come one after another. */
  #xidText = '0';
  #xid = 0;
  /** Truncated rows that were read together with one before them, by id. */
  #whole = new Map<number, Row>();

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
    const xid = Number(text);
    if (!Number.isSafeInteger(xid)) throw new Error('expected "xid" to be a transaction number');
    this.#xidText = text;
    this.#xid = xid;
  }

  /**
   * The row with its content; undefined where it is no longer in the table, which is logged. Those that come after it in
   * `waiting` are read with it, so that a run of large rows costs one query for every sixteen.
   */
  async whole({ id, xid }: TruncatedRow, waiting: Iterable<unknown>): Promise<Row | undefined> {
    const { table, query, logger, observer, readTimeoutMs } = this.#options;
    if (this.#whole.get(id)?.xid !== xid) {
      const ids = [id];
      for (const payload of waiting) {
        if (ids.length >= ROWS) break;
        const next = this.#truncatedId(payload);
        if (next !== undefined && next !== id) ids.push(next);
      }
      this.#whole.clear();
      for (const payload of await readRows(query, table, ids, readTimeoutMs)) {
        const row = this.parse(payload);
        if (row) this.#whole.set(row.id, row as Row);
      }
    }
    const row = this.#whole.get(id);
    this.#whole.delete(id);
    if (row?.xid !== xid) {
      observer.rowMissing();
      logger.warn('A row was deleted before it could be read, skipping it', { table: table.table, id });
      return undefined;
    }
    return row;
  }

  #truncatedId(payload: unknown): number | undefined {
    if (typeof payload !== 'string' || payload.length > TRUNCATED_LENGTH) return undefined;
    try {
      const row = this.#options.table.parse(payload);
      return 'truncated' in row ? row.id : undefined;
    } catch {
      return undefined; // logged when its turn comes
    }
  }
}
