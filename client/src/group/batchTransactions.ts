/** The transactions of `handleBatch`: what the handler writes and what is stored of the rows commit together. */
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff, NoAnswerError, NotConnectedError, QueryTimeoutError } from '@pg-signals/db';
import type { Pool, PoolClient } from 'pg';
import type { BatchHandler, Outcome } from './batchHandling.ts';
import type { Checkpoints } from './checkpoints.ts';
import { HandlerTimeoutError, toError, type Work } from './handling.ts';
import {
  inTransaction,
  LostMembershipError,
  type Membership,
  NotCommittedError,
  RestartedError,
  rows,
} from './membership.ts';
import { NEXT_OF_KEY } from './retries.ts';

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
    const ids = new Set(works.map(({ id }) => id));
    return this.#run(works, (client, commit) => this.#options.checkpoints.storeWith(client, ids, commit));
  }

  /** A row that runs again: it is kept for no other run. */
  commitAgain(work: Work<Row>): Promise<Outcome> {
    const { groupId, epoch } = this.#options.membership;
    return this.#run([work], async (client) => {
      const { rowCount } = await client.query(
        `WITH done AS (
           DELETE FROM public.signal_retries
           WHERE group_id = $1 AND signal_id = $2 AND running = $3 AND EXISTS (
             SELECT FROM public.signal_group_members WHERE group_id = $1 AND epoch = $3 FOR KEY SHARE
           )
           RETURNING key
         ), next AS (${NEXT_OF_KEY})
         SELECT FROM done`,
        [groupId, work.id, epoch, work.key ?? null],
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

  async #transaction(works: readonly Work<Row>[], finish: Finish): Promise<void> {
    const { pool, timeoutMs, handleBatch } = this.#options;
    let isHandled = false;
    const transaction = async (client: PoolClient, commit: () => Promise<void>) => {
      const [begun] = await rows<[xid: string]>(client, 'SELECT pg_current_xact_id()::text', []);
      await handleBatch(
        works.map(({ row }) => row),
        client,
      );
      await requireTransaction(client, begun![0]);
      isHandled = true;
      await finish(client, commit);
    };
    await inTransaction(pool, timeoutMs, transaction).catch((error: Error) => {
      if (isHandled || !(error.cause instanceof QueryTimeoutError)) throw error;
      throw new HandlerTimeoutError(`the handler did not finish within ${timeoutMs} ms`);
    });
  }
}

type Finish = (client: PoolClient, commit: () => Promise<void>) => Promise<void>;

/** Without a timeout: that counts as the handler's. */
const isConnectionLost = (error: unknown): boolean =>
  error instanceof NotConnectedError ||
  error instanceof RestartedError ||
  (error instanceof NotCommittedError && !(error.cause instanceof QueryTimeoutError));

/** The server answers nothing else within a transaction in which a query has failed. */
const ABORTED = '25P02';

/** Without its transaction, what the handler wrote and the checkpoint are not one. */
async function requireTransaction(client: PoolClient, begun: string): Promise<void> {
  const [now] = await rows<[xid: string | null]>(client, 'SELECT pg_current_xact_id_if_assigned()::text', []).catch(
    (error: Error & { code?: string }) => {
      if (error.code !== ABORTED) throw error;
      throw new Error('the handler went on after an error of one of its queries: its transaction is aborted');
    },
  );
  if (now![0] !== begun) throw new Error('the handler ended its transaction: what it wrote before may be committed');
}
