/** Injects the faults: into the server, into a consumer's network, into its process. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Way } from '@pg-signals/local/faulty-proxy';
import type pg from 'pg';
import { now } from './clock.ts';
import type { Consumer } from './consumer.ts';
import type { Fault, FaultKind } from './schedule.ts';
import { type ChaosServer, isConnectionError } from './server.ts';
import type { Writers } from './writers.ts';

/** What faults can hit. */
export interface Targets {
  readonly server: ChaosServer;
  readonly writers: Writers;
  readonly consumers: readonly Consumer[];
}

/** A fault as it happened, on the clock of `now()`. */
export interface InjectedFault extends Fault {
  readonly from: number;
  readonly to: number;
  /** How many backends it terminated, where that is what it does. */
  readonly terminated: number | undefined;
}

/** Injects one fault; resolves when it is over, which is at once where another fault has the server down already. */
export async function inject(fault: Fault, targets: Targets): Promise<InjectedFault> {
  const from = now();
  const hit = targets.consumers.filter(({ cohort }) => fault.cohort === 'all' || cohort === fault.cohort);
  let terminated: number | undefined;
  try {
    terminated = (await CARRY_OUT[fault.kind](fault, hit, targets)) ?? undefined;
  } catch (error) {
    if (!isConnectionError(error)) throw error;
  }
  return { ...fault, from, to: now(), terminated };
}

/** Resolves with the number of backends that it terminated, if any. */
// biome-ignore lint/suspicious/noConfusingVoidType: most return nothing
type CarryOut = (fault: Fault, hit: readonly Consumer[], targets: Targets) => Promise<number | void>;

const CARRY_OUT: Record<FaultKind, CarryOut> = {
  'terminate the listening backend': (_fault, hit, { server }) =>
    withClient(server, (client) => terminate(client, hit, 'listening')),

  'terminate the other backends': (_fault, hit, { server }) =>
    withClient(server, (client) => terminate(client, hit, 'others')),

  'terminate all backends in a loop': ({ forMs }, hit, { server }) => terminateFor(forMs, server, hit, 'all'),

  // A large row is notified without its values, so the consumer reads it: on a connection that fails, while the one that
  // listens works.
  'terminate the other backends among large rows': async ({ forMs }, hit, { server, writers }) => {
    const [terminated] = await Promise.all([
      terminateFor(forMs, server, hit, 'others'),
      writeLargeRows(forMs, writers),
    ]);
    return terminated;
  },

  'cut the connections': async (_fault, hit) => {
    for (const { proxy } of hit) proxy.cut();
  },
  'silence both ways': ({ forMs }, hit) => block(hit, forMs, 'toServer', 'toClient'),
  'silence towards the client': ({ forMs }, hit) => block(hit, forMs, 'toClient'),
  'silence towards the server': ({ forMs }, hit) => block(hit, forMs, 'toServer'),
  'half-open connections': async (_fault, hit) => {
    for (const { proxy } of hit) proxy.forget();
  },
  'slow network': async ({ forMs }, hit) => {
    const restore = hit.map(({ proxy }) => proxy.slow(100));
    await sleep(forMs);
    for (const undo of restore) undo();
  },
  'accept and never answer': async ({ forMs }, hit) => {
    const over = block(hit, forMs, 'connect');
    for (const { proxy } of hit) proxy.cut();
    await over;
  },

  'slow callback in a burst': async ({ forMs, rows }, hit, { writers }) => {
    for (const consumer of hit) consumer.send({ type: 'hold', ms: forMs });
    await Promise.all([sleep(forMs), writers.burst(rows)]);
  },

  'frozen process in a burst': async ({ forMs, rows }, hit, { writers }) => {
    for (const consumer of hit) consumer.send({ type: 'freeze', ms: forMs });
    await Promise.all([sleep(forMs), writers.burst(rows)]);
  },

  'too many connections': async ({ forMs }, hit, { server }) => {
    const end = now() + forMs;
    const taken: pg.Client[] = [];
    const takeAll = async () => {
      while (now() < end) {
        const client = await server.connect('filler').catch(() => sleep(20)); // full, for now
        if (client) taken.push(client);
      }
    };
    const filling = Promise.all([takeAll(), takeAll(), takeAll(), takeAll()]);
    await sleep(Math.min(500, forMs / 2));
    for (const { proxy } of hit) proxy.cut();
    await filling;
    await Promise.all(taken.map((client) => client.end()));
  },

  'crash of the server': ({ forMs }, _hit, { server }) => server.bounce('immediate', forMs),
  'restart of the server': ({ forMs }, _hit, { server }) => server.bounce('fast', forMs),

  'crash after rollbacks': (fault, hit, targets) =>
    afterRollbacks(fault, hit, targets, () => targets.server.bounce('immediate', 0)),
  'crash of one backend after rollbacks': (fault, hit, targets) =>
    afterRollbacks(fault, hit, targets, () => killBackend(fault, targets.server)),

  // The consumers stay disconnected while many rows are written, and lose the server again while they read those.
  'crash in a catch-up': async ({ forMs, rows }, hit, { server, writers }) => {
    const out = block(hit, forMs, 'connect');
    for (const { proxy } of hit) proxy.cut();
    await Promise.all([out, writers.burst(rows)]);
    await sleep(rows % 400);
    await server.bounce('immediate', 0);
  },

  'crash of one backend': (fault, _hit, { server }) => killBackend(fault, server),
};

/** Rows of 9 kB, which a notification can't hold, in small transactions. */
async function writeLargeRows(forMs: number, writers: Writers): Promise<void> {
  for (const end = now() + forMs; now() < end; await sleep(5)) await writers.burst(10, 9_000);
}

/** The backend of any consumer or writer, drawn from the seed as far as the backends come in the same order. */
function killBackend({ rows }: Fault, server: ChaosServer): Promise<void> {
  return server.killBackend(['chaos consumer %', 'chaos writer%'], rows);
}

/**
 * A rolled-back transaction leaves nothing that must survive a crash, not even its id: after the recovery other
 * transactions get the same ids. A cursor that covers those ids skips their rows, if the writers are back before the
 * consumers. A proof may have moved the cursor there; or, every other time, a catch-up: the consumers reconnect half way.
 */
async function afterRollbacks(
  { forMs, rows }: Fault,
  hit: readonly Consumer[],
  { server, writers }: Targets,
  crash: () => Promise<void>,
): Promise<void> {
  const resume = await writers.pause();
  let out: Promise<void> | undefined;
  try {
    await withClient(server, async (client) => {
      await rollBack(client, forMs / 2);
      if (rows % 2 === 0) for (const { proxy } of hit) proxy.cut();
      await rollBack(client, forMs / 2);
    });
    out = block(hit, 1_500, 'connect');
    await crash();
  } finally {
    resume();
  }
  await out;
}

async function rollBack(client: pg.Client, forMs: number): Promise<void> {
  for (const end = now() + forMs; now() < end; ) {
    await client.query(`BEGIN; INSERT INTO signals (signal_name, signal_value) VALUES ('rolled back', 0); ROLLBACK`);
  }
}

/** A backend that listens is recognised by its last query: the server shows it to other sessions in no other way. */
async function terminate(client: pg.Client, hit: readonly Consumer[], which: keyof typeof WHICH): Promise<number> {
  const { rowCount } = await client.query(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = ANY($1) AND ${WHICH[which]}`,
    [names(hit)],
  );
  return rowCount ?? 0;
}

/** Terminates again and again, every 20 ms. */
function terminateFor(
  forMs: number,
  server: ChaosServer,
  hit: readonly Consumer[],
  which: keyof typeof WHICH,
): Promise<number> {
  return withClient(server, async (client) => {
    let terminated = 0;
    for (const end = now() + forMs; now() < end; await sleep(20)) terminated += await terminate(client, hit, which);
    return terminated;
  });
}

const WHICH = { listening: `query ~* '^\\s*listen'`, others: `query !~* '^\\s*listen'`, all: 'true' };

function names(hit: readonly Consumer[]): string[] {
  return hit.map(({ applicationName }) => applicationName);
}

async function block(hit: readonly Consumer[], forMs: number, ...ways: Way[]): Promise<void> {
  const unblock = hit.map(({ proxy }) => proxy.block(...ways));
  await sleep(forMs);
  for (const open of unblock) open();
}

async function withClient<T>(server: ChaosServer, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = await server.connect('faults');
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
