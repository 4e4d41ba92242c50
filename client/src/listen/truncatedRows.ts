/** Reads rows whose notification has no content, because it would not fit, from the table: a few at a time. */
import type { Query } from '@pg-signals/db';
import { readRows } from './committedRows.ts';
import type { FeedRow, FeedTable, TruncatedRow } from './feedTable.ts';

/** Rows read at a time: each has 8,000 bytes or more, perhaps a megabyte, and memory is bounded. */
const ROWS = 16;
/** Longer than any payload of a truncated row. */
const TRUNCATED_LENGTH = 80;

export class TruncatedRows<Row extends FeedRow> {
  readonly #query: Query;
  readonly #table: FeedTable<Row>;
  readonly #timeoutMs: number;
  #read = new Map<number, Row>();

  constructor(query: Query, table: FeedTable<Row>, timeoutMs: number) {
    this.#query = query;
    this.#table = table;
    this.#timeoutMs = timeoutMs;
  }

  /**
   * The row; undefined where it is no longer in the table. Those that come after it in `waiting` are read with it, so that
   * a run of large rows costs one query for every sixteen.
   */
  async get({ id }: TruncatedRow, waiting: Iterable<unknown>): Promise<Row | undefined> {
    if (!this.#read.has(id)) {
      const ids = [id];
      for (const payload of waiting) {
        if (ids.length >= ROWS) break;
        const next = this.#truncatedId(payload);
        if (next !== undefined && next !== id) ids.push(next);
      }
      this.#read.clear();
      for (const payload of await readRows(this.#query, this.#table, ids, this.#timeoutMs)) {
        const row = this.#table.parse(payload) as Row;
        this.#read.set(row.id, row);
      }
    }
    const row = this.#read.get(id);
    this.#read.delete(id);
    return row;
  }

  #truncatedId(payload: unknown): number | undefined {
    if (typeof payload !== 'string' || payload.length > TRUNCATED_LENGTH) return undefined;
    try {
      const row = this.#table.parse(payload);
      return 'truncated' in row ? row.id : undefined;
    } catch {
      return undefined; // reported when its turn comes
    }
  }
}
