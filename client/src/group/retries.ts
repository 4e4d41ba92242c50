/** Rows that failed, in the database: kept for their next run, run again when it is due, buried after the last. */
import type { Query } from '@pg-signals/db';
import type { FeedRow } from '../listen/feedTable.ts';
import type { Logger } from '../logger.ts';
import type { Room, Work } from './handling.ts';

const FIRST_DELAY_MS = 1_000;
const LONGEST_DELAY_MS = 300_000;

/** Rows written, or read, in one statement at most. */
const BATCH = 500;

const SUSPECTED = 'the member that began it, or was to begin it, ended';

/** A row that is due. */
export interface DueRow {
  readonly id: number;
  readonly xid: number;
  readonly lane: number;
  readonly key: string | undefined;
  /** This run's number. */
  readonly attempt: number;
}

/** What became of a run: without an error it is done with, also where the row was gone. */
export interface RunOutcome<Row> {
  readonly row: Row | undefined;
  readonly error: Error | undefined;
}

export interface RetriesOptions<Row> {
  query: Query;
  logger: Logger;
  group: { readonly id: string; readonly name: string };
  epoch: number;
  /** Runs after the first. */
  retries: number;
  observer: { retried(): void; deadLetter(): void };
  /** The lanes whose rows may run here. */
  lanes: () => readonly number[];
  /** Resolves when so many rows may run, or fewer. */
  reserve: (wanted: number) => Promise<Room>;
  /** Runs a row; resolves with what it failed with, or with undefined when its result counts no more. */
  run: (due: DueRow) => Promise<RunOutcome<Row> | undefined>;
}

export class Retries<Row extends FeedRow> {
  readonly #options: RetriesOptions<Row>;
  /** Keys that have a row in the table: the later rows of such a key wait there, too. */
  readonly #held = new Set<string>();
  readonly #toKeep: { work: Work<Row>; error: Error | undefined; kept: () => void }[] = [];
  /** One statement at a time, so that what is kept and what is released of a key can't miss each other. */
  #writing: Promise<unknown> = Promise.resolve();
  #reserving = false;
  #timer: NodeJS.Timeout | undefined;
  #ended = false;

  constructor(options: RetriesOptions<Row>) {
    this.#options = options;
  }

  isHeld = (key: string): boolean => this.#held.has(key);

  /**
   * Keeps a row for another run: later where it has failed, at once where it is not known whether it did, and when its turn
   * comes behind an earlier row of its key. Resolves when it is committed; tries until then, or until `end`.
   */
  keep(work: Work<Row>, error: Error | undefined): Promise<void> {
    if (work.key !== undefined) this.#held.add(work.key);
    return new Promise((kept) => {
      this.#toKeep.push({ work, error, kept });
      if (this.#toKeep.length === 1) void this.#write(() => this.#keepAll());
    });
  }

  /** Of lanes that are acquired: which keys are held. To be awaited before any of their rows is handled. */
  async load(lanes: readonly number[]): Promise<void> {
    const { query, group } = this.#options;
    const keys = await query<[string]>(
      'SELECT DISTINCT key FROM public.signal_retries WHERE group_id = $1 AND lane = ANY ($2) AND key IS NOT NULL',
      [group.id, lanes],
    );
    for (const [key] of keys) this.#held.add(key);
  }

  /** Runs what is due now, and looks again when the next row is. */
  look(): void {
    if (!this.#ended) void this.#write(() => this.#runDue());
  }

  /** Nothing is run any more. Resolves when no statement is on its way. */
  async end(): Promise<void> {
    this.#ended = true;
    clearTimeout(this.#timer);
    this.#toKeep.length = 0;
    await this.#writing;
  }

  #write(work: () => Promise<void>): Promise<void> {
    const written = this.#writing.then(work).catch((error) => {
      if (this.#ended) return;
      this.#options.logger.warn('Retries could not be read or written, trying again', {
        group: this.#options.group.name,
        reason: (error as Error).message,
      });
      this.#lookAfter(1_000);
    });
    this.#writing = written;
    return written;
  }

  #lookAfter(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#toKeep.length > 0) void this.#write(() => this.#keepAll());
      this.look();
    }, ms);
  }

  async #keepAll(): Promise<void> {
    while (this.#toKeep.length > 0 && !this.#ended) {
      const batch = this.#toKeep.slice(0, BATCH);
      await this.#keep(batch.map(({ work, error }) => ({ work, error })));
      this.#toKeep.splice(0, batch.length);
      for (const { kept } of batch) kept();
      this.look();
    }
  }

  /** A row that is kept already (its member ended before it could store that) stays as it is. */
  async #keep(rows: readonly { work: Work<Row>; error: Error | undefined }[]): Promise<void> {
    const { query, group } = this.#options;
    await query(
      `INSERT INTO public.signal_retries
         (group_id, signal_id, xid, lane, key, attempts, due_at, first_error, last_error)
       SELECT $1, id, xid::text::xid8, lane, key, attempts,
         CASE
           WHEN key IS NOT NULL AND (
             place > first_value(place) OVER (PARTITION BY key ORDER BY place)
             OR EXISTS (SELECT FROM public.signal_retries AS earlier WHERE earlier.group_id = $1 AND earlier.key = kept.key)
           ) THEN 'infinity'
           ELSE clock_timestamp() + delay_ms * interval '1 ms'
         END,
         error, error
       FROM ROWS FROM (
         unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::int[]), unnest($5::text[]), unnest($6::int[]),
         unnest($7::int[]), unnest($8::text[])
       ) WITH ORDINALITY AS kept (id, xid, lane, key, attempts, delay_ms, error, place)
       ORDER BY place
       ON CONFLICT (group_id, signal_id) DO NOTHING`,
      [
        group.id,
        rows.map(({ work }) => work.id),
        rows.map(({ work }) => work.xid),
        rows.map(({ work }) => work.lane),
        rows.map(({ work }) => work.key ?? null),
        rows.map(({ work, error }) => (error || work.suspect ? 1 : 0)),
        rows.map(({ error }) => (error ? delayMs(1) : 0)),
        rows.map(({ work, error }) => error?.message ?? (work.suspect ? SUSPECTED : null)),
      ],
    );
  }

  /** Begins what is due, as far as the handler has room. */
  async #runDue(): Promise<void> {
    const { query, group, epoch, lanes, reserve } = this.#options;
    if (this.#ended) return;
    clearTimeout(this.#timer);
    const [state] = await query<[due: number, nextMs: number | null]>(
      `SELECT count(*) FILTER (WHERE due_at <= clock_timestamp())::int,
         1000 * extract(epoch FROM min(due_at) FILTER (WHERE due_at > clock_timestamp()) - clock_timestamp())::float8
       FROM public.signal_retries
       WHERE group_id = $1 AND lane = ANY ($2) AND due_at < 'infinity' AND running IS DISTINCT FROM $3`,
      [group.id, lanes(), epoch],
    );
    const [due, nextMs] = state!;
    if (nextMs !== null) this.#lookAfter(Math.max(nextMs, 1));
    if (due === 0 || this.#reserving) return;
    this.#reserving = true;
    void reserve(due).then((room) => this.#write(() => this.#claim(room)));
  }

  /** Counts an attempt before it begins: a row that kills its process comes to its end, too. */
  async #claim(room: Room): Promise<void> {
    const { query, group, epoch, lanes, retries } = this.#options;
    this.#reserving = false;
    let due: [id: string, xid: string, lane: number, key: string | null, attempts: number][] = [];
    try {
      if (this.#ended) return;
      due = await query(
        `UPDATE public.signal_retries AS retry
         SET attempts = attempts + 1, running = $3
         FROM (
           SELECT signal_id
           FROM public.signal_retries
           WHERE group_id = $1 AND lane = ANY ($2) AND due_at <= clock_timestamp() AND running IS DISTINCT FROM $3
           ORDER BY due_at, seq
           LIMIT $4
           FOR UPDATE SKIP LOCKED
         ) AS due
         WHERE retry.group_id = $1 AND retry.signal_id = due.signal_id
         RETURNING retry.signal_id, retry.xid::text, lane, key, attempts`,
        [group.id, lanes(), epoch, room.size],
      );
    } finally {
      room.release(room.size - due.length);
    }
    const runs = due.map(async ([id, xid, lane, key, attempt]) => {
      const row = { id: Number(id), xid: Number(xid), lane, key: key ?? undefined, attempt };
      if (attempt > retries + 1) await this.#write(() => this.#bury(row, undefined, undefined));
      else await this.#run(row);
      room.release(1);
    });
    // One look for all of them, so that the next ones are claimed together, too.
    if (due.length > 0) void Promise.all(runs).then(() => this.look());
  }

  async #run(due: DueRow): Promise<void> {
    const { observer, retries, run } = this.#options;
    observer.retried();
    const outcome = await run(due);
    if (this.#ended || outcome === undefined) return;
    const { error, row } = outcome;
    if (!error) await this.#write(() => this.#done(due));
    else if (due.attempt > retries) await this.#write(() => this.#bury(due, error, row));
    else await this.#write(() => this.#later(due, error));
  }

  async #done(due: DueRow): Promise<void> {
    await this.#options.query(
      `WITH done AS (
         DELETE FROM public.signal_retries WHERE group_id = $1 AND signal_id = $2 AND running = $3 RETURNING key
       )
       ${NEXT_OF_KEY}`,
      [this.#options.group.id, due.id, this.#options.epoch, due.key ?? null],
    );
    await this.#release(due.key);
  }

  async #later(due: DueRow, error: Error): Promise<void> {
    const { query, group, epoch } = this.#options;
    await query(
      `UPDATE public.signal_retries
       SET due_at = clock_timestamp() + $4 * interval '1 ms', running = NULL,
         first_error = coalesce(first_error, $5), last_error = $5
       WHERE group_id = $1 AND signal_id = $2 AND running = $3`,
      [group.id, due.id, epoch, delayMs(due.attempt), error.message],
    );
  }

  async #bury(due: DueRow, error: Error | undefined, row: Row | undefined): Promise<void> {
    const { query, group, epoch, logger, observer, retries } = this.#options;
    const attempts = Math.min(due.attempt, retries + 1); // one more was counted, and not begun, where its process ended
    const [buried] = await query<[string]>(
      `WITH done AS (
         DELETE FROM public.signal_retries WHERE group_id = $1 AND signal_id = $2 AND running = $3
         RETURNING key, attempts, first_error, last_error
       ), dead AS (
         INSERT INTO public.dead_letters (group_name, signal_id, signal, attempts, first_error, last_error)
         SELECT $5, $2, $6, $7, coalesce(first_error, $8), coalesce($8, last_error) FROM done
         RETURNING last_error
       ), next AS (${NEXT_OF_KEY})
       SELECT last_error FROM dead`,
      [
        group.id,
        due.id,
        epoch,
        due.key ?? null,
        group.name,
        row === undefined ? null : JSON.stringify(row),
        attempts,
        error?.message ?? null,
      ],
    );
    await this.#release(due.key);
    if (!buried) return;
    observer.deadLetter();
    const fields = { group: group.name, id: due.id, attempts, reason: buried[0] };
    logger.error('Signal given up after its last attempt', fields);
  }

  /** A key is held as long as one of its rows is in the table, or on its way there. */
  async #release(key: string | undefined): Promise<void> {
    if (key === undefined) return;
    const { query, group } = this.#options;
    const rows = await query('SELECT FROM public.signal_retries WHERE group_id = $1 AND key = $2 LIMIT 1', [
      group.id,
      key,
    ]);
    if (rows.length === 0 && !this.#toKeep.some(({ work }) => work.key === key)) this.#held.delete(key);
  }
}

/** Where row $2 is gone, the first of those that wait behind it for key $4 is due. */
const NEXT_OF_KEY = `
  UPDATE public.signal_retries
  SET due_at = clock_timestamp()
  WHERE group_id = $1
    AND seq = (SELECT min(seq) FROM public.signal_retries WHERE group_id = $1 AND key = $4 AND signal_id <> $2)
    AND (
      EXISTS (SELECT FROM done)
      OR NOT EXISTS (SELECT FROM public.signal_retries WHERE group_id = $1 AND signal_id = $2)
    )`;

/** 1 s before the second run, doubled before each later one, and up to a quarter more. */
const delayMs = (attempt: number): number =>
  Math.round(Math.min(FIRST_DELAY_MS * 2 ** (attempt - 1), LONGEST_DELAY_MS) * (1 + Math.random() / 4));
