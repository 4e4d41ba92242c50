/** Rows that failed, in the database: kept for their next run, run again when it is due, buried after the last. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Query } from '@pg-signals/db';
import type { PoolClient } from 'pg';
import type { Logger } from '../logger.ts';
import { Condition, type Room, type Work } from './handling.ts';
import { storableError, storableJson } from './storable.ts';

const FIRST_DELAY_MS = 1_000;
const LONGEST_DELAY_MS = 300_000;
/** After a statement that failed. */
const AGAIN_MS = 1_000;

/** Rows written, or read, in one statement at most. */
const BATCH = 500;

/** Rows claimed at a time at most, beyond those that may run at once. */
const CLAIM_MAX = 256;
/** The largest integer of PostgreSQL. */
const ANY_ATTEMPTS = 2 ** 31 - 1;
/** Claims grow as long as what was claimed is done within this, in ms. */
const QUICK_MS = 100;

const SUSPECTED = 'the member that began it, or was to begin it, ended';

/** A character that the database's encoding does not have. */
const UNTRANSLATABLE = '22P05';

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
export interface RunOutcome {
  /** The row as JSON. */
  readonly payload: string | undefined;
  readonly error: Error | undefined;
}

export interface RetriesOptions {
  query: Query;
  logger: Logger;
  group: { readonly id: string; readonly name: string };
  epoch: number;
  /** Runs after the first. */
  retries: number;
  observer: { retried(): void; deadLetter(): void };
  /** The lanes whose rows may run here. */
  lanes: () => readonly number[];
  /** Stores that these rows are handled, in one transaction with what `work` writes. */
  storeAlong: (rows: ReadonlySet<number>, work: (client: PoolClient) => Promise<unknown>) => Promise<void>;
  /** Resolves when so many rows may run, or fewer. */
  reserve: (wanted: number) => Promise<Room>;
  /** Reads a row, as JSON; undefined where it is gone. */
  read: (due: DueRow) => Promise<string | undefined>;
  /** Runs a row; resolves with what it failed with, or with undefined when its result counts no more. */
  run: (due: DueRow) => Promise<RunOutcome | undefined>;
  /** A statement failed: it is tried again, until `end`. */
  onFailed: (error: Error) => void;
}

interface Removal {
  readonly ids: number[];
  readonly removed: Promise<void>;
}

export class Retries<Row> {
  readonly #options: RetriesOptions;
  /** Keys that have a row in the table: the later rows of such a key wait there, too. */
  readonly #held = new Set<string>();
  readonly #toKeep: { work: Work<Row>; error: Error | undefined; kept: () => void }[] = [];
  /** What runs here, from its claim until the database knows what became of it. */
  readonly #inHand = new Map<number, DueRow>();
  readonly #changed = new Condition();
  /** One statement at a time, so that what is kept and what is released of a key can't miss each other. */
  #writing: Promise<unknown> = Promise.resolve();
  #isLookDue = false;
  #reserving = false;
  /** Rows that are claimed at a time: more where they are done quickly, so that a statement each does not hold them up. */
  #claimSize = 1;
  /** Rows that are done, and the statement that is to remove them. */
  #removal: Removal | undefined;
  /** A row runs that may end the process: no other is begun beside it. */
  #isAlone = false;
  /** The database has refused a character. */
  #isAscii = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #end = new AbortController();

  constructor(options: RetriesOptions) {
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
    if (this.#isLookDue || this.#isEnded) return;
    this.#isLookDue = true;
    void this.#write(() => {
      this.#isLookDue = false;
      return this.#runDue();
    });
  }

  /** Resolves when no row of these lanes runs, and what became of those that did is stored. `lanes` has them no more. */
  async finished(lanes: ReadonlySet<number>): Promise<void> {
    await this.#write(async () => {}); // after a claim that is on its way
    await this.#changed.until(() => [...this.#inHand.values()].every(({ lane }) => !lanes.has(lane)));
  }

  /** Nothing is run any more. Resolves when nothing runs, and no statement is on its way. */
  async end(): Promise<void> {
    this.#end.abort();
    clearTimeout(this.#timer);
    this.#toKeep.length = 0;
    await this.#changed.until(() => this.#inHand.size === 0);
    await this.#writing;
  }

  get #isEnded(): boolean {
    return this.#end.signal.aborted;
  }

  /** Until the database answers: a row whose outcome is lost would be run no more, and hold its key forever. */
  #write(work: () => Promise<void>): Promise<void> {
    const written = this.#writing.then(async () => {
      while (!this.#isEnded) {
        try {
          return await work();
        } catch (error) {
          await this.#failed(error as Error & { code?: string });
        }
      }
    });
    this.#writing = written;
    return written;
  }

  async #failed(error: Error & { code?: string }): Promise<void> {
    if (this.#isEnded) return;
    const { logger, group, onFailed } = this.#options;
    if (error.code === UNTRANSLATABLE && !this.#isAscii) {
      this.#isAscii = true;
      return;
    }
    const fields = { group: group.name, reason: error.message, delay_ms: AGAIN_MS };
    logger.warn('Retries could not be read or written, trying again', fields);
    onFailed(error);
    await sleep(AGAIN_MS, undefined, { signal: this.#end.signal }).catch(() => {});
  }

  async #keepAll(): Promise<void> {
    while (this.#toKeep.length > 0) {
      const batch = this.#toKeep.slice(0, BATCH);
      await this.#keep(batch);
      if (this.#isEnded) return;
      this.#toKeep.splice(0, batch.length);
      for (const { kept } of batch) kept();
      this.look();
    }
  }

  /**
   * In the transaction that stores the cursors: what was handled before a row of its key doesn't come again after it. A row that
   * is kept already stays as it is.
   */
  async #keep(rows: readonly { work: Work<Row>; error: Error | undefined }[]): Promise<void> {
    const { group, storeAlong, retries } = this.#options;
    // With one retry a row has no run to lose beside others: as if it was interrupted.
    const isInterrupted = (work: Work<Row>) => work.suspect && retries === 1;
    const values = [
      group.id,
      rows.map(({ work }) => work.id),
      rows.map(({ work }) => work.xid),
      rows.map(({ work }) => work.lane),
      rows.map(({ work }) => work.key ?? null),
      rows.map(({ work, error }) => (error || work.suspect ? 1 : 0)),
      rows.map(({ error }) => (error ? this.#delayMs(1) : 0)),
      rows.map(({ work, error }) => (error ? this.#textOf(error) : work.suspect ? SUSPECTED : null)),
      rows.map(({ work }) => (isInterrupted(work) ? 0 : null)),
    ];
    await storeAlong(new Set(rows.map(({ work }) => work.id)), (client) => client.query(KEEP, values));
  }

  /** Begins what is due, as far as the handler has room. */
  async #runDue(): Promise<void> {
    const { query, group, epoch, lanes, reserve } = this.#options;
    clearTimeout(this.#timer);
    const [state] = await query<[due: number, alone: boolean, nextMs: number | null]>(
      `WITH retries AS NOT MATERIALIZED (
         SELECT due_at, running
         FROM public.signal_retries
         WHERE group_id = $1 AND lane = ANY ($2) AND due_at < 'infinity' AND signal_id <> ALL ($3)
       )
       SELECT
         (SELECT count(*)::int FROM (SELECT FROM retries WHERE due_at <= clock_timestamp() LIMIT $5) AS due),
         EXISTS (SELECT FROM retries WHERE due_at <= clock_timestamp() AND running <> $4),
         (
           SELECT 1000 * extract(epoch FROM min(due_at) - clock_timestamp())::float8
           FROM retries
           WHERE due_at > clock_timestamp()
         )`,
      [group.id, lanes(), [...this.#inHand.keys()], epoch, BATCH],
    );
    const [due, alone, nextMs] = state!;
    if (this.#isEnded) return;
    if (nextMs !== null) this.#timer = setTimeout(() => this.look(), Math.max(nextMs, 1));
    // Of the rows that ran when a process ended, one may have ended it: beside the others they would all come to their end.
    if (due === 0 || this.#reserving || this.#isAlone || (alone && this.#inHand.size > 0)) return;
    this.#reserving = true;
    void reserve(alone ? 1 : due).then((room) => this.#write(() => this.#claim(room, alone)));
  }

  /** Counts an attempt before it begins: a row that kills its process comes to its end, too. */
  async #claim(room: Room, alone: boolean): Promise<void> {
    const size = alone ? 1 : Math.max(room.size, this.#claimSize);
    // A row that waits here when the process ends has lost an attempt: only one that has many left may.
    const mayWait = size > room.size && this.#options.retries > 1;
    const many = mayWait ? await this.#claimUpTo(size, alone, 1) : [];
    const due = many.length > 0 ? many : await this.#claimUpTo(room.size, alone, ANY_ATTEMPTS);
    this.#reserving = false;
    this.#isAlone = alone && due.length > 0;
    for (const row of due) {
      this.#inHand.set(row.id, row);
      if (row.key !== undefined) this.#held.add(row.key); // `groups retry` may have put it there
    }
    const startedAt = performance.now();
    const runners = Array.from({ length: room.size }, async () => {
      for (let row = due.shift(); row; row = due.shift()) await this.#runOne(row);
      room.release(1);
      this.look();
    });
    void Promise.all(runners).then(() => {
      const isQuick = performance.now() - startedAt < QUICK_MS;
      this.#claimSize = isQuick ? Math.min(2 * this.#claimSize, CLAIM_MAX) : 1;
    });
  }

  async #claimUpTo(limit: number, alone: boolean, attemptsMax: number): Promise<DueRow[]> {
    const { query, group, epoch, lanes } = this.#options;
    const due = await query<[id: string, xid: string, lane: number, key: string | null, attempts: number]>(CLAIM, [
      group.id,
      lanes(),
      epoch,
      limit,
      [...this.#inHand.keys()],
      alone,
      attemptsMax,
    ]);
    return due.map(([id, xid, lane, key, attempt]) => {
      return { id: Number(id), xid: Number(xid), lane, key: key ?? undefined, attempt };
    });
  }

  async #runOne(due: DueRow): Promise<void> {
    if (due.attempt > this.#options.retries + 1) {
      await this.#write(async () => this.#bury(due, undefined, await this.#options.read(due)));
      this.#settle(due);
      return;
    }
    if ((await this.#run(due)) === 'done') {
      void this.#remove(due).then(() => this.#settle(due)); // together with others, while the next one runs
    } else this.#settle(due);
  }

  /** The database knows what became of it. */
  #settle(due: DueRow): void {
    this.#inHand.delete(due.id);
    this.#isAlone = false;
    this.#changed.changed();
    if (this.#inHand.size === 0) this.look();
  }

  /** What is done while a statement is on its way is removed by the next one. */
  #remove(due: DueRow): Promise<void> {
    this.#removal ??= this.#newRemoval();
    this.#removal.ids.push(due.id);
    return this.#removal.removed;
  }

  #newRemoval(): Removal {
    const ids: number[] = [];
    const removed = this.#write(async () => {
      this.#removal = undefined;
      const { query, group, epoch } = this.#options;
      await query('DELETE FROM public.signal_retries WHERE group_id = $1 AND signal_id = ANY ($2) AND running = $3', [
        group.id,
        ids,
        epoch,
      ]);
    });
    return { ids, removed };
  }

  /** Resolves with `'done'` for a row without a key that is to be removed. */
  async #run(due: DueRow): Promise<'done' | undefined> {
    const { observer, retries, run } = this.#options;
    observer.retried();
    const outcome = await run(due);
    if (outcome === undefined) return undefined;
    const { error, payload } = outcome;
    if (!error && due.key === undefined) return 'done';
    if (!error) await this.#write(() => this.#done(due));
    else if (due.attempt > retries) await this.#write(() => this.#bury(due, error, payload));
    else await this.#write(() => this.#later(due, error));
    return undefined;
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
      [group.id, due.id, epoch, this.#delayMs(due.attempt), this.#textOf(error)],
    );
  }

  async #bury(due: DueRow, error: Error | undefined, payload: string | undefined): Promise<void> {
    const { query, group, epoch, logger, observer, retries } = this.#options;
    const attempts = Math.min(due.attempt, retries + 1); // one more was counted, and not begun, where its process ended
    const [buried] = await query<[string]>(
      `WITH done AS (
         DELETE FROM public.signal_retries WHERE group_id = $1 AND signal_id = $2 AND running = $3
         RETURNING key, attempts, first_error, last_error
       ), dead AS (
         INSERT INTO public.dead_letters (group_name, signal_id, signal, attempts, first_error, last_error)
         SELECT $5, $2, $6, $7, coalesce(first_error, $8), coalesce($8, last_error) FROM done
       ), next AS (${NEXT_OF_KEY})
       SELECT coalesce($8, last_error) FROM done`,
      [
        group.id,
        due.id,
        epoch,
        due.key ?? null,
        group.name,
        payload === undefined ? null : storableJson(payload),
        attempts,
        error ? this.#textOf(error) : null,
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
    const rows = await query(
      `SELECT FROM public.signal_retries
       WHERE group_id = $1 AND hashtextextended(key, 0) = hashtextextended($2, 0) AND key = $2
       LIMIT 1`,
      [group.id, key],
    );
    if (rows.length === 0 && !this.#toKeep.some(({ work }) => work.key === key)) this.#held.delete(key);
  }

  #textOf(error: Error): string {
    return storableError(error, this.#isAscii);
  }

  /** 1 s before the second run, doubled before each later one, and up to a quarter more. Nothing is gained before no run. */
  #delayMs(attempt: number): number {
    if (attempt > this.#options.retries) return 0;
    return Math.round(Math.min(FIRST_DELAY_MS * 2 ** (attempt - 1), LONGEST_DELAY_MS) * (1 + Math.random() / 4));
  }
}

const KEEP = `
  INSERT INTO public.signal_retries
    (group_id, signal_id, xid, lane, key, attempts, due_at, first_error, last_error, running)
  SELECT $1, id, xid::text::xid8, lane, key, attempts,
    CASE
      WHEN key IS NOT NULL AND (
        place > first_value(place) OVER (PARTITION BY key ORDER BY place)
        OR EXISTS (
          SELECT FROM public.signal_retries AS earlier
          WHERE earlier.group_id = $1
            AND hashtextextended(earlier.key, 0) = hashtextextended(kept.key, 0) AND earlier.key = kept.key
        )
      ) THEN 'infinity'
      ELSE clock_timestamp() + delay_ms * interval '1 ms'
    END,
    error, error, running
  FROM ROWS FROM (
    unnest($2::bigint[]), unnest($3::bigint[]), unnest($4::int[]), unnest($5::text[]), unnest($6::int[]),
    unnest($7::int[]), unnest($8::text[]), unnest($9::bigint[])
  ) WITH ORDINALITY AS kept (id, xid, lane, key, attempts, delay_ms, error, running, place)
  ORDER BY place
  ON CONFLICT (group_id, signal_id) DO NOTHING`;

/**
 * Only for a member: one that was frozen, and whose lanes are others' now, takes nothing. What it has claimed before and does not
 * know of (the answer was lost) was counted, and did not run.
 */
const CLAIM = `
  UPDATE public.signal_retries AS retry
  SET attempts = attempts + CASE WHEN running = $3 THEN 0 ELSE 1 END, running = $3
  FROM (
    SELECT signal_id
    FROM public.signal_retries
    WHERE group_id = $1 AND lane = ANY ($2) AND due_at <= clock_timestamp() AND signal_id <> ALL ($5)
      AND (NOT $6 OR running <> $3) AND attempts <= $7
    ORDER BY due_at, seq
    LIMIT $4
    FOR UPDATE SKIP LOCKED
  ) AS due
  WHERE retry.group_id = $1 AND retry.signal_id = due.signal_id AND EXISTS (
    SELECT FROM public.signal_group_members WHERE group_id = $1 AND epoch = $3 FOR KEY SHARE
  )
  RETURNING retry.signal_id, retry.xid::text, lane, key, attempts`;

/** Where row $2 is gone, the first of those that wait behind it for key $4 is due. */
export const NEXT_OF_KEY = `
  UPDATE public.signal_retries
  SET due_at = clock_timestamp()
  WHERE group_id = $1
    AND seq = (
      SELECT min(seq)
      FROM public.signal_retries
      WHERE group_id = $1 AND hashtextextended(key, 0) = hashtextextended($4, 0) AND key = $4 AND signal_id <> $2
    )
    AND (
      EXISTS (SELECT FROM done)
      OR NOT EXISTS (SELECT FROM public.signal_retries WHERE group_id = $1 AND signal_id = $2)
    )`;
