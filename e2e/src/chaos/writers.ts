/** Writers, connected without a proxy: they carry out the plans and record when each commit was confirmed. */
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { now } from './clock.ts';
import { decidePlan, insertSelect, type Row, type Statement, type Transaction } from './plans.ts';
import { Random } from './random.ts';
import { type ChaosServer, isConnectionError } from './server.ts';

/** Rows of one transaction in a burst. */
const BURST_STEP = 500;
const RECONNECT_MS = 100;

export class Writers {
  /**
   * When COMMIT returned, by transaction. A commit whose answer was lost is not here: the table shows at the end
   * whether it happened.
   */
  readonly committedAt = new Map<string, number>();
  readonly #server: ChaosServer;
  readonly #seed: string;
  #running: Promise<unknown> = Promise.resolve();
  readonly #stopped = Promise.withResolvers<void>();
  #stopping = false;
  #resumed: Promise<void> = Promise.resolve();
  /** Cuts the waits short that hold transactions open. */
  #hurry = new AbortController();
  readonly #inFlight = new Set<Promise<unknown>>();
  #bursts = 0;

  constructor(server: ChaosServer, seed: string) {
    this.#server = server;
    this.#seed = seed;
  }

  /** Starts `count` writers and two transactions that stay open for the whole run. Rejects on a bug of the checker. */
  run(count: number): Promise<unknown> {
    const writers = Array.from({ length: count }, (_, i) => this.#write(`w${i + 1}`));
    this.#running = Promise.all([...writers, this.#stayOpen('open1', 'commit'), this.#stayOpen('open2', 'rollback')]);
    return this.#running;
  }

  /** Ends every open transaction as planned, and stops. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#hurry.abort();
    this.#stopped.resolve();
    await this.#running;
  }

  /** Resolves when no writer commits any more; calling the function that it returns lets them go on. */
  async pause(): Promise<() => void> {
    const resumed = Promise.withResolvers<void>();
    this.#resumed = resumed.promise;
    this.#hurry.abort();
    await Promise.allSettled(this.#inFlight);
    return () => {
      if (!this.#stopping) this.#hurry = new AbortController();
      resumed.resolve();
    };
  }

  /**
   * Writes `rows` rows as fast as the server takes them, each with attributes of `size` characters; gives up when the
   * connection is lost.
   */
  async burst(rows: number, size = 0): Promise<void> {
    const name = `burst${++this.#bursts}`;
    let client: pg.Client | undefined;
    for (let done = 0; done < rows; done += BURST_STEP) {
      const text = insertSelect(name, Math.min(BURST_STEP, rows - done), size);
      const insert: Transaction = { end: 'autocommit', statement: { kind: 'sql', text } };
      client = await this.#survive(client, (connected) => this.#carryOut(connected, insert));
      if (!client) return;
    }
    await client?.end();
  }

  async #write(name: string): Promise<void> {
    const random = new Random(this.#seed, `writer ${name}`);
    let client: pg.Client | undefined;
    while (!this.#stopping) {
      const plan = decidePlan(random, name);
      client = await this.#survive(client, (connected) => this.#carryOut(connected, plan.transaction));
      await this.#rest(client ? plan.pauseMs : RECONNECT_MS);
    }
    await client?.end();
  }

  /** Keeps a transaction open, with rows at its start and its end; begins a new one when the connection is lost. */
  async #stayOpen(name: string, end: 'commit' | 'rollback'): Promise<void> {
    let client: pg.Client | undefined;
    while (!this.#stopping) {
      const insert = (part: string) => ({ kind: 'sql' as const, text: insertSelect(`${name}.${part}`, 3) });
      try {
        client = await this.#server.connect(`writer ${name}`);
        const { promise: lost, resolve } = Promise.withResolvers<void>();
        client.once('end', resolve); // events.once would also reject, unhandled while a query is awaited
        await client.query('BEGIN');
        await execute(client, insert('start'));
        await Promise.race([lost, this.#stopped.promise]);
        await execute(client, insert('end'));
        await this.#end(client, end);
      } catch (error) {
        if (!isConnectionError(error)) throw error;
        client?.end().catch(() => {});
        await sleep(RECONNECT_MS);
      }
    }
    await client?.end();
  }

  /** Works on the client or on a new one, after any pause; returns it, or undefined when the connection was lost. */
  async #survive(
    client: pg.Client | undefined,
    work: (client: pg.Client) => Promise<void>,
  ): Promise<pg.Client | undefined> {
    await this.#resumed;
    try {
      client ??= await this.#server.connect('writer');
      const working = work(client);
      this.#inFlight.add(working);
      await working.finally(() => this.#inFlight.delete(working));
      return client;
    } catch (error) {
      if (!isConnectionError(error)) throw error;
      client?.end().catch(() => {});
      return undefined;
    }
  }

  async #carryOut(client: pg.Client, transaction: Transaction): Promise<void> {
    if (transaction.end === 'autocommit') {
      this.#note(await execute(client, transaction.statement));
      return;
    }
    await client.query('BEGIN');
    for (const step of transaction.steps) {
      if (step.kind === 'hold') await this.#rest(step.ms);
      else await execute(client, step);
    }
    await this.#end(client, transaction.end);
  }

  async #end(client: pg.Client, end: 'commit' | 'rollback'): Promise<void> {
    if (end === 'rollback') {
      await client.query('ROLLBACK');
      return;
    }
    const { rows } = await client.query<{ xid: string | null }>('SELECT pg_current_xact_id_if_assigned()::text AS xid');
    await client.query('COMMIT');
    this.#note(rows[0]!.xid);
  }

  /** Call it when COMMIT has just returned. */
  #note(xid: string | null | undefined): void {
    if (xid) this.committedAt.set(xid, now());
  }

  /** Waits; returns at once when the writers stop or pause. */
  #rest(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: this.#hurry.signal }).catch(() => {});
  }
}

const INSERT = `
  INSERT INTO public.signals ("timestamp", signal_name, signal_value, attributes)
  SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::float8[], $4::jsonb[])
  RETURNING xid::text`;

/** @returns the transaction of the rows, where the statement returns it. */
async function execute(client: pg.Client, statement: Statement): Promise<string | undefined> {
  if (statement.kind === 'copy') return copyIn(client, statement.rows);
  const { rows } =
    statement.kind === 'sql'
      ? await client.query<{ xid: string }>(statement.text)
      : await client.query<{ xid: string }>(INSERT, [
          statement.rows.map((row) => row.timestamp),
          statement.rows.map((row) => row.name),
          statement.rows.map((row) => row.value),
          statement.rows.map((row) => row.attributes),
        ]);
  return rows[0]?.xid;
}

async function copyIn(client: pg.Client, rows: readonly Row[]): Promise<undefined> {
  const lines = rows.map(
    ({ timestamp, name, value, attributes }) =>
      `${timestamp}\t${name}\t${value}\t${attributes.replaceAll('\\', '\\\\')}\n`,
  );
  const columns = '"timestamp", signal_name, signal_value, attributes';
  const stream = client.query(copyFrom(`COPY public.signals (${columns}) FROM STDIN`));
  await pipeline(lines, stream);
}
