/** Fetches rows that were told by their id alone, a few at a time. */
import { readRows } from './committedRows.ts';
import type { Query } from './database.ts';
import type { LogRow, LogTable, TruncatedRow } from './logTable.ts';

/** Rows read at a time: each has 8,000 bytes or more, perhaps a megabyte, and memory is bounded. */
const ROWS = 16;
/** Longer than any payload that tells of a truncated row. */
const TRUNCATED_LENGTH = 64;

export class WholeRows<Row extends LogRow> {
  readonly #query: Query;
  readonly #log: LogTable<Row>;
  readonly #deadlineMs: number;
  #fetched = new Map<number, Row>();

  constructor(query: Query, log: LogTable<Row>, deadlineMs: number) {
    this.#query = query;
    this.#log = log;
    this.#deadlineMs = deadlineMs;
  }

  /**
   * The row; undefined where the table has it no more. Those that come after it in `coming` are fetched with it, so that
   * a run of large rows costs one query for every sixteen.
   */
  async get({ id }: TruncatedRow, coming: Iterable<unknown>): Promise<Row | undefined> {
    if (!this.#fetched.has(id)) {
      const ids = [id];
      for (const payload of coming) {
        if (ids.length >= ROWS) break;
        const next = this.#truncatedId(payload);
        if (next !== undefined && next !== id) ids.push(next);
      }
      this.#fetched.clear();
      for (const payload of await readRows(this.#query, this.#log, ids, this.#deadlineMs)) {
        const row = this.#log.parse(payload) as Row;
        this.#fetched.set(row.id, row);
      }
    }
    const row = this.#fetched.get(id);
    this.#fetched.delete(id);
    return row;
  }

  #truncatedId(payload: unknown): number | undefined {
    if (typeof payload !== 'string' || payload.length > TRUNCATED_LENGTH) return undefined;
    try {
      const row = this.#log.parse(payload);
      return 'truncated' in row ? row.id : undefined;
    } catch {
      return undefined; // told when its turn comes
    }
  }
}
