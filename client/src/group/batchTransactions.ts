/** The transactions of `handleBatch`: what the handler writes and what is stored of the rows commit together. */
import { NoAnswerError } from '@pg-signals/db';
import type { Pool, PoolClient } from 'pg';
import type { BatchHandler, Outcome } from './batchHandling.ts';
import type { Checkpoints } from './checkpoints.ts';
import { toError, type Work } from './handling.ts';
import { inTransaction, LostMembershipError, type Membership } from './membership.ts';

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
    return this.#run(works, (client) => this.#options.checkpoints.storeWith(client, rows));
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
      await client.query('COMMIT');
    });
  }

  async #run(works: readonly Work<Row>[], finish: (client: PoolClient) => Promise<void>): Promise<Outcome> {
    const { pool, timeoutMs, handleBatch, onLost } = this.#options;
    try {
      await inTransaction(pool, timeoutMs, async (client) => {
        // A process that is frozen here holds locks that others wait for: the server ends its transaction.
        await client.query(`SET LOCAL idle_in_transaction_session_timeout = ${timeoutMs}`);
        await handleBatch(
          works.map(({ row }) => row),
          client,
        );
        await finish(client);
      });
      return undefined;
    } catch (error) {
      if (!(error instanceof LostMembershipError || error instanceof NoAnswerError)) return toError(error);
      onLost(error);
      return 'lost';
    }
  }
}
