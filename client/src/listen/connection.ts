/** The one connection that listens: opened, proved, watched, replaced as often as it is lost. */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  acquire,
  backoff,
  checkChannel,
  discard,
  discardIdle,
  type Query,
  queryOn,
  withConnection,
} from '@pg-signals/db';
import pg, { type Notification, type Pool, type PoolClient } from 'pg';
import type { Logger } from '../logger.ts';
import { type Marker, ProofError, Prover } from './proof.ts';
import { requireServer, type Snapshot, STARTED_AT, takeDurableSnapshot } from './snapshot.ts';

/** Called with each payload notified on a channel. What it throws or rejects with is logged, nothing more. */
export type PayloadHandler = (payload: string) => unknown;

/** How rows can be received now. Each feed gets a new one whenever this changes, after the old one has ended. */
export type Connection = ListeningConnection | PollingConnection;

/** Notifications come through it, and that was proved. */
export interface ListeningConnection {
  readonly mode: 'listening';
  /** Durable, and taken after LISTEN: whatever it does not cover is notified. */
  readonly snapshot: Snapshot;
  /** The server's process behind it. */
  readonly backend: number;
  /** Aborted when this connection is over. */
  readonly ended: AbortSignal;
  /** Proves the connection once more. It ends where that fails. */
  prove(): Promise<void>;
}

/** Notifications are unavailable: read the table. */
export interface PollingConnection {
  readonly mode: 'polling';
  readonly ended: AbortSignal;
}

/** Is called with what becomes of connections. */
export interface ConnectionObserver {
  /** A connection is about to be opened, the first one included. */
  connecting(): void;
  /** A connection was lost or could not be opened: attempt number `attempt` comes after `delayMs`. */
  retrying(error: Error, attempt: number, delayMs: number): void;
}

export interface ConnectorOptions {
  pool: Pool;
  query: Query;
  logger: Logger;
  /** Called with every new connection, after the one before has ended. */
  follow: (connection: Connection) => void;
  /** Called with each marker that comes back, at its place among the notifications. */
  onMarker: (marker: Marker) => void;
  observer: ConnectionObserver;
  proofIntervalMs: number;
  proofTimeoutMs: number;
  /** How long to poll before LISTEN is tried again. */
  retryMs: number;
}

/** LISTEN is unavailable through this connection, and trying again at once won't help. */
class NoListenError extends Error {
  override name = 'NoListenError';
}

/** Keeps one connection listening on any number of channels, which may come and go while it runs. */
export class Connector {
  readonly #options: ConnectorOptions;
  readonly #handlers = new Map<string, Set<PayloadHandler>>();
  #client: PoolClient | undefined;
  #prover: Prover | undefined;
  #received = 0;
  /** Ends the connection in use, with the reason. */
  #lose: ((reason: Error) => void) | undefined;
  #polling: AbortController | undefined;

  constructor(options: ConnectorOptions) {
    this.#options = options;
  }

  /** @throws {RangeError} for a name that PostgreSQL would cut (more than 63 bytes). */
  addHandler(channel: string, handler: PayloadHandler): void {
    checkChannel(channel);
    const handlers = this.#handlers.get(channel);
    if (handlers) handlers.add(handler);
    else {
      this.#handlers.set(channel, new Set([handler]));
      this.#send('LISTEN', channel);
    }
  }

  removeHandler(channel: string, handler: PayloadHandler): void {
    const handlers = this.#handlers.get(channel);
    if (!handlers?.delete(handler) || handlers.size > 0) return;
    this.#handlers.delete(channel);
    this.#send('UNLISTEN', channel);
  }

  /** Listens until `signal` aborts; resolves when the connection is back in the pool with UNLISTEN done. */
  async run(signal: AbortSignal): Promise<void> {
    const { pool, logger, observer, proofTimeoutMs, retryMs } = this.#options;
    for (let attempt = 1; !signal.aborted; attempt++) {
      observer.connecting();
      try {
        await this.#listen(signal, () => {
          attempt = 0;
        });
      } catch (error) {
        if (signal.aborted) break;
        const reason = (error as Error).message;
        if (error instanceof NoListenError) {
          if (!this.#polling) {
            logger.warn('No notifications here, reading the table instead', { reason, listen_again_ms: retryMs });
            this.#poll(signal);
          }
          await sleep(retryMs, undefined, { signal }).catch(() => {});
          attempt = 0;
        } else {
          const delay = backoff(Math.max(attempt, 1));
          observer.retrying(error as Error, attempt + 1, delay);
          await discardIdle(pool, proofTimeoutMs).catch(() => {}); // a new one may fail too: the next attempt reports it
          logger.warn('Not listening, connecting again', { reason, delay_ms: delay, attempt: attempt + 1 });
          await sleep(delay, undefined, { signal }).catch(() => {});
        }
      }
    }
    this.#polling?.abort();
  }

  /** One connection, from its opening to its end. Rejects when it is lost; resolves when `signal` aborts. */
  async #listen(signal: AbortSignal, onOpened: () => void): Promise<void> {
    const { pool, query, proofTimeoutMs, logger } = this.#options;
    const client = await acquire(pool, proofTimeoutMs);
    const over = new AbortController();
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => {}); // it may be lost at a moment when nothing waits for it
    const lose = (reason: Error) => {
      lost.reject(reason);
      over.abort();
    };
    this.#lose = lose;
    const onEnd = () => lose(new Error('the connection ended'));
    client.on('error', lose).on('end', onEnd).on('notification', this.#receive);
    let opened = false;
    const stop = () => (opened ? over.abort() : lose(new Error('stopping')));
    signal.addEventListener('abort', stop);
    if (signal.aborted) stop(); // while the connection was opened
    try {
      const { prover, startedAt, backend } = await Promise.race([this.#open(client), lost.promise]);
      opened = true;
      onOpened();
      this.#polling?.abort();
      this.#polling = undefined;
      const snapshot = await Promise.race([takeDurableSnapshot(query), lost.promise]);
      requireServer(snapshot.server, startedAt);
      const prove = () =>
        prover.prove().catch((error: Error) => {
          lose(error);
          throw error;
        });
      this.#options.follow({ mode: 'listening', snapshot, backend, ended: over.signal, prove });
      logger.info('Starting listener', { channels: [...this.#handlers.keys()].join(',') });
      await Promise.race([this.#keepProving(prove, over.signal), lost.promise]);
      this.#client = undefined;
      await queryOn(client, 'UNLISTEN *', [], proofTimeoutMs);
      client.off('error', lose).off('end', onEnd).off('notification', this.#receive);
      client.release();
    } catch (error) {
      client.off('notification', this.#receive);
      discard(client);
      throw error;
    } finally {
      this.#client = this.#prover = this.#lose = undefined;
      signal.removeEventListener('abort', stop);
      over.abort();
    }
  }

  /** LISTEN on every channel and the first proof: LISTEN alone succeeds where nothing will ever come. */
  async #open(client: PoolClient): Promise<{ prover: Prover; startedAt: string; backend: number }> {
    const { query, onMarker, proofTimeoutMs: timeoutMs } = this.#options;
    const [row] = await queryOn<[boolean, number, string]>(
      client,
      `SELECT pg_is_in_recovery(), pg_backend_pid(), ${STARTED_AT}`,
      [],
      timeoutMs,
    );
    const [standby, backend, startedAt] = row!;
    if (standby) {
      throw new NoListenError(
        'this server is a standby, which has no notifications: point DATABASE_URL at the primary',
      );
    }
    // A pooler gives out process ids of its own, so the one of the handshake is not what pg_backend_pid() returns.
    const isPooler = (client as PoolClient & { processID: number }).processID !== backend;
    if (isPooler && (await this.#isShared(client, backend))) {
      throw new NoListenError(
        'a pooler in transaction mode stands before the server: point DATABASE_URL at the server itself, or set pool_mode=session',
      );
    }
    // A LISTEN that changes nothing: pg_stat_activity shows the last query, and so which connections listen.
    const ping = () => client.query(`LISTEN ${prover.channel}`);
    const prover: Prover = new Prover({ query, timeoutMs, ping, receivedSoFar: () => this.#received, onMarker });
    this.#prover = prover;
    this.#client = client; // from here on a channel that is added is listened on by itself
    const channels = [prover.channel, ...this.#handlers.keys()];
    const listen = channels.map((channel) => `LISTEN ${pg.escapeIdentifier(channel)}`).join('; ');
    await queryOn(client, listen, [], timeoutMs).catch(async (error) => {
      if (error.code === '58P01') await this.#freeQueue();
      throw error;
    });
    try {
      await prover.prove();
      return { prover, startedAt, backend };
    } catch (error) {
      if (!(error instanceof ProofError)) throw error;
      // No marker, but does the connection answer? Then something between us and the server swallows notifications.
      await queryOn(client, 'UNLISTEN *', [], timeoutMs);
      throw new NoListenError(
        'LISTEN succeeds here but no notification comes through: point DATABASE_URL at the server itself',
      );
    }
  }

  /**
   * 58P01: the server's queue of notifications begins with some whose transactions it no longer knows, and LISTEN reads from
   * there (servers before 14.21, 15.16, 16.12, 17.8 and 18.2, after a vacuum while a listener lagged far behind). This call gives
   * up what nobody waits for; the next attempt to LISTEN succeeds then.
   */
  async #freeQueue(): Promise<void> {
    const { query, logger } = this.#options;
    const [row] = await query<[number]>('SELECT pg_notification_queue_usage()');
    logger.warn('LISTEN failed on old notifications, dropping those that nobody waits for', { queue_usage: row![0] });
  }

  /**
   * True behind a pooler in transaction mode, which gives each transaction any server connection: two connections of ours are
   * found on the same one, or one of ours on two. Looked for before LISTEN, which would stay behind on a server connection that
   * others use, and let the server's queue of notifications fill up.
   */
  #isShared(client: PoolClient, backend: number): Promise<boolean> {
    const { pool, proofTimeoutMs: timeoutMs } = this.#options;
    const backendOf = async (each: PoolClient) =>
      (await queryOn<[number]>(each, 'SELECT pg_backend_pid()', [], timeoutMs))[0]![0];
    return withConnection(pool, timeoutMs, async (other) => {
      let shared = false;
      // More than once, since a pooler may hand its connections out in turns.
      for (let round = 0; round < 3 && !shared; round++) {
        await other.query('BEGIN');
        try {
          shared = (await backendOf(other)) === backend || (await backendOf(client)) !== backend;
        } finally {
          await other.query('COMMIT');
        }
      }
      return shared;
    });
  }

  async #keepProving(prove: () => Promise<void>, over: AbortSignal): Promise<void> {
    for (;;) {
      await sleep(this.#options.proofIntervalMs, undefined, { signal: over }).catch(() => {});
      if (over.aborted) return;
      await prove();
    }
  }

  #poll(signal: AbortSignal): void {
    const ended = new AbortController();
    signal.addEventListener('abort', () => ended.abort(), { once: true });
    this.#polling = ended;
    this.#options.follow({ mode: 'polling', ended: ended.signal });
  }

  #receive = ({ channel, payload = '' }: Notification): void => {
    this.#received++;
    const handlers = this.#handlers.get(channel);
    if (handlers) for (const handler of handlers) this.#call(handler, channel, payload);
    else if (channel === this.#prover?.channel) this.#prover.receive(payload);
  };

  /** A handler that throws must not end the reading of what else came with its payload. */
  #call(handler: PayloadHandler, channel: string, payload: string): void {
    try {
      const result = handler(payload);
      if (result instanceof Promise) result.catch((error) => this.#handlerFailed(channel, error));
    } catch (error) {
      this.#handlerFailed(channel, error);
    }
  }

  #handlerFailed(channel: string, error: unknown): void {
    this.#options.logger.error('Handler failed, going on', { channel, error });
  }

  /** On a connection that listens already; a new one listens on every channel anyway. */
  #send(command: 'LISTEN' | 'UNLISTEN', channel: string): void {
    const client = this.#client;
    if (!client) return;
    queryOn(client, `${command} ${pg.escapeIdentifier(channel)}`, [], this.#options.proofTimeoutMs).catch((error) =>
      this.#lose?.(error as Error),
    );
  }
}
