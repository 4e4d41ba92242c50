/** Queries that always end: a server that goes silent fails them after a timeout. */
import type { Socket } from 'node:net';
import pg, { type ClientBase, type Pool, type PoolClient, type QueryArrayConfig } from 'pg';
import { messageOf } from './messageOf.ts';

/** No connection was available: nothing was sent. */
export class NotConnectedError extends Error {
  override name = 'NotConnectedError';
}

/** There was no connection in time. */
export class ConnectTimeoutError extends NotConnectedError {
  override name = 'ConnectTimeoutError';
}

/** The query was sent, and the connection was lost before an answer came. It may have been done. */
export class NoAnswerError extends Error {
  override name = 'NoAnswerError';
}

/** The query was sent, and no answer came in time. It may have been done, or be done later. */
export class QueryTimeoutError extends NoAnswerError {
  override name = 'QueryTimeoutError';
}

/**
 * Runs a query and resolves with its rows, each an array of its columns; throws what `queryWithin` throws. Of several
 * statements (without values, in one transaction) it resolves with the rows of the last.
 */
export type Query = <Row extends unknown[]>(text: string, values?: unknown[], timeoutMs?: number) => Promise<Row[]>;

/** `queryWithin` for one pool, with a timeout that each call may change. */
export function createQuery(pool: Pool, defaultTimeoutMs: number): Query {
  return (text, values = [], timeoutMs = defaultTimeoutMs) =>
    queryWithin(pool, { text, values, rowMode: 'array' }, timeoutMs);
}

/**
 * Runs one query on a connection of the pool and resolves with its rows.
 *
 * @throws what `withConnection` throws.
 */
export function queryWithin<Row extends unknown[]>(
  pool: Pool,
  query: QueryArrayConfig,
  timeoutMs: number,
): Promise<Row[]> {
  return withConnection(pool, timeoutMs, async (client) => {
    // pg's types do not name the array that it resolves with for several statements.
    const result: unknown = await client.query<Row>(query);
    return (Array.isArray(result) ? result.at(-1) : result).rows;
  });
}

/**
 * Runs `work` on a connection of the pool, which may take `timeoutMs` to get the connection and as long again to finish.
 *
 * After the timeout the connection is closed and the server is asked to cancel: the query may wait for a lock that another
 * session holds, and would go on waiting without us. A connection whose state is unknown never goes back into the pool.
 *
 * @throws {NotConnectedError} when the pool gives no connection; a `ConnectTimeoutError` where it gives none in time.
 * @throws {QueryTimeoutError} after `timeoutMs`.
 * @throws {NoAnswerError} when the connection is lost.
 * @throws {pg.DatabaseError} what the server answered. The connection goes back into the pool as `work` left it, so a
 *   transaction must be ended there.
 */
export async function withConnection<T>(
  pool: Pool,
  timeoutMs: number,
  work: (client: PoolClient) => Promise<T>,
): Promise<T> {
  const client = await acquire(pool, timeoutMs);
  // Without a handler, the error of a connection in use would end the process; the query in flight rejects with it too.
  client.on('error', ignore);
  try {
    const result = await within(timeoutMs, work(client));
    client.off('error', ignore);
    client.release();
    return result;
  } catch (error) {
    if (error instanceof QueryTimeoutError) cancel(client);
    if (isAnswer(error)) {
      client.off('error', ignore);
      client.release();
      throw error;
    }
    discard(client);
    throw error instanceof NoAnswerError ? error : new NoAnswerError(messageOf(error), { cause: error });
  }
}

/**
 * Runs a query on a connection that the caller holds, and leaves what becomes of that connection to the caller.
 *
 * @throws {QueryTimeoutError} after `timeoutMs`: the connection is still busy then.
 */
export async function queryOn<Row extends unknown[]>(
  client: ClientBase,
  text: string,
  values: unknown[],
  timeoutMs: number,
): Promise<Row[]> {
  return (await within(timeoutMs, client.query<Row>({ text, values, rowMode: 'array' }))).rows;
}

/**
 * A connection of the pool; one that comes after the timeout goes back by itself.
 *
 * @throws {NotConnectedError} when the pool gives none; a `ConnectTimeoutError` where it gives none in time.
 */
export async function acquire(pool: Pool, timeoutMs: number): Promise<PoolClient> {
  const connecting = pool.connect();
  try {
    return await within(timeoutMs, connecting);
  } catch (error) {
    if (error instanceof QueryTimeoutError) {
      connecting.then(
        (client) => client.release(),
        () => {},
      );
      throw new ConnectTimeoutError(`no database connection within ${timeoutMs} ms`, { cause: error });
    }
    // What pg and pg-pool say when their own timeout is shorter than ours.
    const timedOut = /timeout exceeded when trying to connect|due to connection timeout/.test(messageOf(error));
    throw new (timedOut ? ConnectTimeoutError : NotConnectedError)(messageOf(error), { cause: error });
  }
}

/** Ends a connection without waiting for the other side, which may be gone. */
export function discard(client: PoolClient): void {
  client.release(true);
  client.connection.stream.destroy();
}

/**
 * Ends the connections that lie idle in the pool. What broke one of them may have broken all, and each would cost the
 * next query its whole timeout to find that out.
 */
export async function discardIdle(pool: Pool, timeoutMs: number): Promise<void> {
  for (let idle = pool.idleCount; idle > 0; idle--) discard(await acquire(pool, timeoutMs));
}

/**
 * True for an error after which the session goes on, so that nothing of the query was done. FATAL and PANIC end the session
 * at whatever moment: even after a commit. The SQLSTATE tells them apart, since the severity comes in the server's language.
 *
 * Not sure to be an answer: 08 connection, 25P03 and 25P04 session timeouts, 53 a full disk and other limits, 57P shutdown
 * and crash, 58 and XX the system's and PostgreSQL's own errors.
 */
function isAnswer(error: unknown): boolean {
  // Not by its class: the pool may be of another copy of pg. Node's errors have a code, and no severity.
  const { code, severity } = error as { code?: string; severity?: string };
  return code !== undefined && severity !== undefined && !/^(08|25P0[34]|53|57P|58|XX)/.test(code);
}

const ignore = () => {};

async function within<T>(timeoutMs: number, work: Promise<T>): Promise<T> {
  const timeout = Promise.withResolvers<never>();
  const timer = setTimeout(() => timeout.reject(new QueryTimeoutError(`no answer within ${timeoutMs} ms`)), timeoutMs);
  try {
    return await Promise.race([work, timeout.promise]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Sends PostgreSQL's CancelRequest, on a connection of its own as the protocol requires, with TLS where the other one has it.
 * No answer says whether it came.
 */
function cancel(client: PoolClient): void {
  // pg keeps them; its types do not name them.
  const { host, port, ssl, processID, secretKey } = client as PoolClient & CancelFields;
  if (processID === null || secretKey === null) return;
  const connection = new pg.Connection({ ssl } as pg.ConnectionConfig) as pg.Connection & CancelMethods;
  connection.on('error', ignore);
  connection.once('connect', () => {
    if (ssl) connection.requestSsl();
    else send();
  });
  connection.once('sslconnect', send);
  function send() {
    connection.cancel(processID!, secretKey!);
    connection.stream.end();
  }
  if (host.startsWith('/')) connection.connect(`${host}/.s.PGSQL.${port}`);
  else connection.connect(port, host);
  connection.stream.setTimeout(5_000, () => connection.stream.destroy()).unref();
}

interface CancelFields {
  ssl: boolean | object;
  processID: number | null;
  secretKey: number | null;
}

interface CancelMethods {
  stream: Socket;
  connect(port: number, host: string): void;
  connect(path: string): void;
  requestSsl(): void;
  cancel(processID: number, secretKey: number): void;
}
