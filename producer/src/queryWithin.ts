/** One query on a connection of the pool, with a deadline on our side: a server that goes silent holds nobody up. */
import { connect } from 'node:net';
import type { Pool, PoolClient, QueryArrayConfig } from 'pg';

/** No connection was to be had: the query was never sent. */
export class NotConnectedError extends Error {
  override name = 'NotConnectedError';
}

/** The query was sent, and the connection lost before an answer came. It may have been done. */
export class NoAnswerError extends Error {
  override name = 'NoAnswerError';
}

/** The query was sent, and no answer came in time. It may have been done, or be done yet. */
export class DeadlineError extends NoAnswerError {
  override name = 'DeadlineError';
}

/**
 * Runs a query and resolves with its rows.
 *
 * At the deadline the connection is given up and the server is asked to cancel: it may wait for a lock that another
 * session holds, and would wait on without us.
 *
 * @throws {NotConnectedError} when the pool gives no connection.
 * @throws {DeadlineError} after `timeoutMs`.
 * @throws {NoAnswerError} when the connection is lost.
 * @throws {pg.DatabaseError} what the server answered.
 */
export async function queryWithin<R extends unknown[]>(
  pool: Pool,
  query: QueryArrayConfig,
  timeoutMs: number,
): Promise<R[]> {
  const client = await pool.connect().catch((cause: Error) => {
    throw new NotConnectedError(cause.message || String(cause), { cause });
  });
  // Unheard, the error of a connection in use would end the process; the query in flight rejects with it as well.
  client.on('error', ignore);
  const deadline = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    cancel(client);
    deadline.reject(new DeadlineError(`no answer within ${timeoutMs} ms`));
  }, timeoutMs);
  let lost: Error | undefined;
  try {
    const { rows } = await Promise.race([client.query<R>(query), deadline.promise]);
    return rows;
  } catch (error) {
    // An ERROR is an answer, and the session goes on. FATAL ends it, at whatever moment: even after a commit.
    if ((error as { severity?: string }).severity === 'ERROR') throw error;
    lost = error as Error;
    throw error instanceof NoAnswerError ? error : new NoAnswerError(lost.message, { cause: error });
  } finally {
    clearTimeout(timer);
    client.off('error', ignore);
    client.release(lost);
  }
}

const ignore = () => {};

/** Sends PostgreSQL's CancelRequest, on a connection of its own as the protocol wants it. Whether it arrives is not told. */
function cancel(client: PoolClient): void {
  // pg keeps both from the server's BackendKeyData message; its types do not name them.
  const { host, port, processID, secretKey } = client as PoolClient & Record<'processID' | 'secretKey', number | null>;
  if (processID === null || secretKey === null) return;
  const request = Buffer.alloc(16);
  request.writeInt32BE(16, 0);
  request.writeInt32BE(80_877_102, 4);
  request.writeInt32BE(processID, 8);
  request.writeInt32BE(secretKey, 12);
  const socket = host.startsWith('/') ? connect(`${host}/.s.PGSQL.${port}`) : connect(port, host);
  socket.on('error', () => {});
  socket.setTimeout(5_000, () => socket.destroy()).unref();
  socket.end(request);
}
