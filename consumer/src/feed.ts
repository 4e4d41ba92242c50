/** Joins notifications and table into one stream: every committed row, once, whatever happens in between. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, type Logger } from '@pg-signals/runtime';
import { BoundedBuffer } from './buffer.ts';
import { CatchUp } from './catchUp.ts';
import type { Query } from './database.ts';
import type { HandOn } from './handOn.ts';
import type { Step } from './ledger.ts';
import type { Link } from './link.ts';
import type { LogRow, LogTable, TruncatedRow } from './logTable.ts';
import type { Position } from './position.ts';
import type { ProofObserver } from './proof.ts';
import { Slice } from './slice.ts';
import { WholeRows } from './wholeRows.ts';

/** Where a row came from. */
export type Source = 'notify' | 'catch_up';

/** Is told what a feed does; for metrics. */
export interface FeedObserver {
  handedOn(source: Source, rows: number): void;
  /** A row came a second time and was dropped. */
  duplicate(): void;
  /** A notification was no row. */
  invalidPayload(): void;
  /** From before a marker was sent to the moment when all that came before it was handed on, in ms. */
  delivered(ms: number): void;
}

export interface FeedOptions<Row extends LogRow> {
  log: LogTable<Row>;
  query: Query;
  handOn: HandOn<Row>;
  logger: Logger;
  observer: FeedObserver;
  /** Payloads that wait at the most. */
  bufferMax: number;
  /** A proof is asked for after so many rows. */
  proofEvery: number;
  pollMs: number;
  readDeadlineMs: number;
}

/** A proof's marker, in its place among the payloads. */
interface Marker {
  readonly step: Step;
  sentAt: number;
  handedOn: boolean;
  position: Position | undefined;
}

/**
 * - `reading`: rows come from the table. Notifications are taken off the socket and dropped: the table has them all.
 * - `levelling`: the same, until a marker that is sent from now on (`armed`) comes back.
 * - `buffering`: notifications are kept, while the table is read up to a moment after the marker.
 * - `live`: notifications are kept and handed on.
 */
type State = 'reading' | 'levelling' | 'armed' | 'buffering' | 'live';

export class Feed<Row extends LogRow> implements ProofObserver {
  readonly #options: FeedOptions<Row>;
  readonly #buffer: BoundedBuffer<string | Marker>;
  readonly #catchUp: CatchUp;
  readonly #wholeRows: WholeRows<Row>;
  /** Before the first position there is nothing to read: the first marker is the beginning. */
  #state: State = 'levelling';
  /** The buffer was full: notifications are dropped until the table is read. */
  #overflowed = false;
  /** The first position counts from the moment when a link was made with it. */
  #begun = false;
  /** It has overflowed since it was level last. */
  #behind = false;
  #marker: Marker | undefined;
  /** Read from the table while notifications were buffered already: the same rows may lie in the buffer. */
  #overlap: Set<number> | undefined;
  #sinceProof = 0;
  #provedAt: number | undefined;
  #wake = () => {};

  constructor(options: FeedOptions<Row>) {
    const { bufferMax, query, log, logger, readDeadlineMs } = options;
    this.#options = options;
    this.#buffer = new BoundedBuffer(bufferMax);
    this.#wholeRows = new WholeRows(query, log, readDeadlineMs);
    this.#catchUp = new CatchUp({ query, log, logger, readDeadlineMs, give: this.#giveRead });
  }

  /** All that was committed longer ago than this, in ms, has come; undefined before the first proof. */
  get proofAgeMs(): number | undefined {
    return this.#provedAt === undefined ? undefined : performance.now() - this.#provedAt;
  }

  /** Resolves when no callback is at work. */
  idle(): Promise<void> {
    return this.#options.handOn.idle();
  }

  /** For each payload notified on the table's channel. */
  receive = (payload: string): void => {
    if ((this.#state !== 'live' && this.#state !== 'buffering') || this.#overflowed) return;
    // Whoever hands on sleeps only while nothing waits: to wake it for each row would cost more than to hand the row on.
    if (!this.#buffer.push(payload)) this.#overflow();
    else if (this.#buffer.length === 1) this.#wake();
  };

  #overflow(): void {
    this.#overflowed = true;
    if (this.#behind) return;
    this.#behind = true;
    const { logger, log, bufferMax } = this.#options;
    logger.warn('Callbacks do not keep up, reading from the table until level again', {
      table: log.table,
      waiting: bufferMax,
    });
  }

  // --- proofs: what was handed on when a position is asked for is in it; when its marker is handed on, so is the rest ---

  begun(): void {
    if (!this.#begun) {
      this.#buffer.clear();
      this.#state = 'levelling';
    }
    if (this.#state === 'levelling') this.#state = 'armed';
    this.#sinceProof = 0;
    const step = this.#state === 'live' ? this.#catchUp.ledger?.begin() : undefined;
    this.#marker = step && { step, sentAt: 0, handedOn: false, position: undefined };
  }

  arrived(sentAt: number): void {
    if (this.#state === 'armed') this.#state = 'buffering';
    const marker = this.#marker;
    if (!marker) return;
    marker.sentAt = sentAt;
    if (this.#state !== 'live' || this.#overflowed || !this.#buffer.push(marker)) this.#marker = undefined;
    this.#wake();
  }

  proved(position: Position): void {
    if (!this.#begun) {
      this.#catchUp.begin(position);
      this.#provedAt = position.takenAt;
    }
    const marker = this.#marker;
    if (!marker) return;
    marker.position = position;
    this.#provedAt = position.takenAt;
    if (marker.handedOn) this.#settle(marker, position);
  }

  abandoned(): void {
    if (this.#state === 'armed') this.#state = 'levelling';
    this.#marker = undefined;
  }

  #settle({ step }: Marker, position: Position): void {
    this.#catchUp.ledger!.proved(step, position);
    this.#catchUp.proved(position);
  }

  // --- following a link ------------------------------------------------------------------------------------------------

  /** Hands rows on until the link ends. Never rejects: what fails is logged and tried again. */
  async follow(link: Link): Promise<void> {
    const { logger, log } = this.#options;
    this.#begun = true;
    const wake = () => this.#wake();
    link.ended.addEventListener('abort', wake);
    for (let attempt = 1; !link.ended.aborted; attempt++) {
      try {
        if (link.mode === 'polling') await this.#poll(link);
        else if (await this.#level(link)) await this.#live(link);
        attempt = 0;
      } catch (error) {
        if (link.ended.aborted) break;
        const delay = backoff(Math.max(attempt, 1));
        const reason = (error as Error).message;
        logger.warn('Reading the table failed, reading again', {
          table: log.table,
          reason,
          delay_ms: delay,
          attempt: attempt + 1,
        });
        await sleep(delay, undefined, { signal: link.ended }).catch(() => {});
      }
    }
    link.ended.removeEventListener('abort', wake);
    this.#read();
  }

  /** Back to the table. What waits in the buffer is not in the ledger yet, so the table gives it again. */
  #read(): void {
    this.#state = 'reading';
    this.#overflowed = false;
    this.#overlap = this.#marker = undefined;
    this.#buffer.clear();
  }

  /** Reads until nothing is missing and every further row will be notified; false when the link ended before. */
  async #level(link: Link): Promise<boolean> {
    while (!link.ended.aborted) {
      if (this.#state !== 'buffering' || this.#overflowed) {
        this.#read();
        const read = await this.#catchUp.readUp(link.ended);
        if (!read) return false;
        this.#provedAt = read.position.takenAt;
        if (read.rows >= this.#options.bufferMax) continue; // so far behind that more has come meanwhile
        this.#state = 'levelling';
        await link.prove();
      }
      // From a marker that was sent after the read on, whatever is notified is newer than the read. What was committed
      // between the two is read once more, and those of it that lie in the buffer as well are dropped there.
      const { position, ids } = await this.#catchUp.readOverlap(link.ended);
      if (link.ended.aborted) return false;
      if (this.#overflowed) continue;
      this.#overlap = ids.size > 0 ? ids : undefined;
      this.#provedAt = position.takenAt;
      this.#state = 'live';
      const { logger, log } = this.#options;
      if (this.#behind) logger.info('Level with the table again, back to notifications', { table: log.table });
      this.#behind = false;
      return true;
    }
    return false;
  }

  async #poll(link: Link): Promise<void> {
    const { logger, log, pollMs } = this.#options;
    this.#read();
    for (let polling = false; !link.ended.aborted; ) {
      const read = await this.#catchUp.readUp(link.ended);
      if (!read) return;
      if (!polling) logger.info('Reading the table', { table: log.table, every_ms: pollMs });
      polling = true;
      this.#provedAt = read.position.takenAt;
      await sleep(pollMs, undefined, { signal: link.ended }).catch(() => {});
    }
  }

  /** Hands on what is notified, until the link ends or the buffer has overflowed and is empty. */
  async #live(link: Link): Promise<void> {
    while (!link.ended.aborted) {
      await this.#drain(link);
      if (this.#overflowed) return;
      const woken = Promise.withResolvers<void>();
      this.#wake = woken.resolve;
      if (this.#buffer.length === 0 && !link.ended.aborted) await woken.promise;
    }
  }

  async #drain(link: Link): Promise<void> {
    const { handOn, observer, proofEvery } = this.#options;
    const ledger = this.#catchUp.ledger!;
    const slice = new Slice();
    let handedOn = 0;
    for (let next = this.#buffer.shift(); next !== undefined && !link.ended.aborted; next = this.#buffer.shift()) {
      if (typeof next !== 'string') {
        observer.handedOn('notify', handedOn);
        handedOn = 0;
        this.#markerHandedOn(next);
        continue;
      }
      let row = this.#parse(next);
      if (row === undefined) continue;
      if (this.#overlap?.has(row.id)) {
        observer.duplicate();
        continue;
      }
      if ('truncated' in row) {
        row = await this.#whole(row, this.#buffer.waiting());
        if (link.ended.aborted) break; // handed on by the next read
        if (row === undefined) continue;
      }
      ledger.record(row.id);
      const busy = handOn.give(row as Row);
      handedOn++;
      if (++this.#sinceProof === proofEvery) link.prove().catch(() => {}); // a failed proof ends the link
      if (busy) await busy;
      if (slice.isOver()) {
        observer.handedOn('notify', handedOn);
        handedOn = 0;
        await slice.next();
      }
    }
    observer.handedOn('notify', handedOn);
  }

  #markerHandedOn(marker: Marker): void {
    marker.handedOn = true;
    // It was sent after the overlap was read: nothing that lies in both can come any more.
    this.#overlap = undefined;
    this.#options.observer.delivered(performance.now() - marker.sentAt);
    if (marker.position) this.#settle(marker, marker.position);
  }

  // --- rows ------------------------------------------------------------------------------------------------------------

  /** A page of the catch-up. */
  #giveRead = async (
    payloads: string[],
    skip: (id: number) => boolean,
    handedOn: (id: number) => void,
    ended: AbortSignal,
  ): Promise<void> => {
    const { handOn, observer } = this.#options;
    const slice = new Slice();
    let given = 0;
    for (let at = 0; at < payloads.length && !ended.aborted; at++) {
      let row = this.#parse(payloads[at]!);
      if (row === undefined) continue;
      if (skip(row.id)) {
        observer.duplicate();
        continue;
      }
      if ('truncated' in row) {
        row = await this.#whole(row, payloads.slice(at + 1));
        if (ended.aborted) break;
        if (row === undefined) continue;
      }
      handedOn(row.id);
      const busy = handOn.give(row as Row);
      given++;
      if (busy) await busy;
      if (slice.isOver()) await slice.next();
    }
    observer.handedOn('catch_up', given);
  };

  #parse(payload: string): Row | TruncatedRow | undefined {
    try {
      return this.#options.log.parse(payload);
    } catch (error) {
      this.#options.observer.invalidPayload();
      this.#options.logger.warn('A payload could not be read, skipping it', {
        channel: this.#options.log.channel,
        reason: (error as Error).message,
        payload: payload.slice(0, 200),
      });
      return undefined;
    }
  }

  async #whole(row: TruncatedRow, coming: Iterable<unknown>): Promise<Row | undefined> {
    const whole = await this.#wholeRows.get(row, coming);
    if (!whole) {
      const { logger, log } = this.#options;
      logger.warn('A row was deleted before it could be read, skipping it', { table: log.table, id: row.id });
    }
    return whole;
  }
}
