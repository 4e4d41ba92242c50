/** The transactions of `handleBatch`: what the handler writes and what is stored of the rows commit together. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, NoAnswerError, NotConnectedError, QueryTimeoutError } from '@pg-signals/db';
import type { Pool, PoolClient } from 'pg';
import type { BatchHandler, Outcome } from './batchHandling.ts';
import type { Checkpoints } from './checkpoints.ts';
import { toError, type Work } from './handling.ts';
import { inTransaction, LostMembershipError, type Membership, NotCommittedError } from './membership.ts';

export interface BatchTransactionsOptions<Row> {
  pool: Pool;
  membership: Membership;
  checkpoints: Checkpoints;
  timeoutMs: number;
  handleBatch: BatchHandler<Row>;
  /** Called when it is unknown whether a transaction has committed, or the rows are another member's. */
  onLost: (error: Error) => void;
}

export class BatchTransactions<Row> {
  readonly #options: BatchTransactionsOptions<Row>;

  constructor(options: BatchTransactionsOptions<Row>) {
    this.#options = options;
  }

  /** Rows that run for the first time: the checkpoint says that they are handled. */
  commit(works: readonly Work<Row>[]): Promise<Outcome> {
    const rows = new Set(works.map(({ id }) => id));
    return this.#run(works, (client, commit) => this.#options.checkpoints.storeWith(client, rows, commit));
  }

  /** A row that runs again: it is kept for no other run. */
  commitAgain(work: Work<Row>): Promise<Outcome> {
    const { groupId, epoch } = this.#options.membership;
    return this.#run([work], async (client) => {
      const { rowCount } = await client.query(
        `DELETE FROM public.signal_retries
         WHERE group_id = $1 AND signal_id = $2 AND running = $3 AND EXISTS (
           SELECT FROM public.signal_group_members WHERE group_id = $1 AND epoch = $3 FOR SHARE
         )`,
        [groupId, work.id, epoch],
      );
      if (rowCount === 0) throw new LostMembershipError('the row is run by another member now');
    });
  }

  /** A connection that is lost before the COMMIT is no failure of the handler: once more, as long as the rows are this member's. */
  async #run(works: readonly Work<Row>[], finish: Finish): Promise<Outcome> {
    const { checkpoints, onLost } = this.#options;
    for (let attempt = 1; ; attempt++) {
      try {
        await this.#transaction(works, finish);
        return undefined;
      } catch (error) {
        if (error instanceof LostMembershipError || error instanceof NoAnswerError) {
          onLost(error);
          return 'lost';
        }
        if (!isConnectionLost(error)) return toError(error);
      }
      await sleep(backoff(attempt));
      if (checkpoints.isOver) return 'lost';
    }
  }

  #transaction(works: readonly Work<Row>[], finish: Finish): Promise<void> {
    const { pool, timeoutMs, handleBatch } = this.#options;
    return inTransaction(pool, timeoutMs, async (client, commit) => {
      const rows = works.map(({ row }) => row);
      await handleBatch(rows, client);
      await finish(client, commit);
    });
  }
}

type Finish = (client: PoolClient, commit: () => Promise<void>) => Promise<void>;

/** Without a timeout: that counts as the handler's. */
const isConnectionLost = (error: unknown): boolean =>
  error instanceof NotConnectedError ||
  (error instanceof NotCommittedError && !(error.cause instanceof QueryTimeoutError));
