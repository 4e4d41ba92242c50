/** Injects the faults: into the server, into a consumer's network, into its process. */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseSignal, SIGNALS_CHANNEL } from '@pg-signals/db';
import type { FaultyProxy, Way } from '@pg-signals/local/faulty-proxy';
import type pg from 'pg';
import { now } from './clock.ts';
import type { ToConsumer } from './consumers/messages.ts';
import { digest, FORGED, FORGED_NAME } from './digest.ts';
import type { Groups } from './groups/groups.ts';
import { Member } from './groups/member.ts';
import { Random } from './random.ts';
import type { Fault, FaultKind } from './schedule.ts';
import { type ChaosServer, isConnectionError } from './server.ts';
import { CONSUMER, FORGER, setOddly } from './settings.ts';
import type { Writers } from './writers.ts';

/** What faults can hit. */
export interface Targets {
  readonly server: ChaosServer;
  readonly writers: Writers;
  readonly consumers: readonly Target[];
  /** None where no group is under test. */
  readonly groups: Groups | undefined;
}

/** A consumer, or a member of a group. */
export interface Target {
  readonly cohort: number;
  readonly proxy: FaultyProxy;
  readonly applicationName: string;
  send(message: ToConsumer): void;
  /** Reads nothing of its log, until the returned function is called. */
  blockLog?(): () => void;
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
  const all = [...targets.consumers, ...(targets.groups?.members ?? [])];
  const hit = all.filter(({ cohort }) => fault.cohort === 'all' || cohort === fault.cohort);
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
type CarryOut = (fault: Fault, hit: readonly Target[], targets: Targets) => Promise<number | void>;

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

  'cut the connections': async (_fault, hit) => cut(hit),
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
    cut(hit);
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
    cut(hit);
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
    cut(hit);
    await Promise.all([out, writers.burst(rows)]);
    await sleep(rows % 400);
    await server.bounce('immediate', 0);
  },

  'crash of one backend': (fault, _hit, { server }) => killBackend(fault, server),

  'other settings of database and role': ({ rows }, hit, { server }) =>
    withClient(server, async (client) => {
      await setOddly(client, CONSUMER, new Random(String(rows), 'settings'));
      return terminate(client, hit, 'all');
    }),

  'address of a standby': (fault, hit, { server }) => lead(fault, hit, server, () => server.standbyPort, fault.forMs),
  'address of server or standby at random': (fault, hit, { server }) => {
    const random = new Random(String(fault.rows), 'address');
    return lead(fault, hit, server, () => random.pick([server.port, server.standbyPort]), 300);
  },

  // Anyone who may connect can do this: what comes next is learned by listening.
  'forged notifications': async ({ forMs }, hit, { server }) => {
    const forger = await server.connect('forger', { username: FORGER });
    let lastId = 0;
    forger.on('notification', ({ payload = '' }) => {
      const signal = parseSignal(payload);
      if (digest(signal) !== FORGED) lastId = Math.max(lastId, signal.id);
    });
    try {
      await forger.query(`LISTEN ${SIGNALS_CHANNEL}`);
      // A consumer that is cut off when it has the forged rows reads from the table the ones whose place they took.
      for (const end = now() + forMs; now() < end; cut(hit)) {
        for (let round = 0; round < 5; round++) {
          await sleep(50);
          await forger.query(FORGE, [SIGNALS_CHANNEL, lastId, FORGED_NAME]);
        }
        await sleep(20);
      }
    } finally {
      await forger.end();
    }
  },

  'blocked log in a burst': async ({ forMs, rows }, hit, { writers }) => {
    const unblock = hit.map((consumer) => consumer.blockLog?.());
    await Promise.all([sleep(forMs), writers.burst(Math.round(rows / 4), 4_000)]); // often more than the service holds
    for (const read of unblock) read?.();
  },

  'kill members': ({ forMs }, hit) => each(hit, (member) => member.kill(forMs)),
  'kill members in a burst': async ({ forMs, rows }, hit, { writers }) => {
    await Promise.all([writers.burst(rows), sleep(rows % 300).then(() => each(hit, (member) => member.kill(forMs)))]);
  },
  'freeze members past their lease': ({ forMs }, hit) => each(hit, (member) => member.freeze(forMs)),
  'scale down and up': ({ forMs }, hit) => each(hit, (member) => member.restart(forMs)),
  'scale up and down': async ({ forMs, rows }, _hit, { groups }) => groups?.scaleUp(forMs, rows % 2),
};

/** Rows of the ids $2 + 1 and on, in the transactions that come after this one. */
const FORGE = `
  SELECT count(pg_notify($1, json_build_object(
    'id', id,
    'timestamp', '2026-01-01T00:00:00+00:00',
    'signal_name', $3::text,
    'signal_value', 0,
    'attributes', json_object('{}'),
    'xid', xid::text
  )::text))
  FROM
    generate_series($2::bigint + 1, $2::bigint + 30) AS id,
    (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint) AS now (xmax),
    generate_series(xmax + 1, xmax + 15) AS xid`;

/**
 * Leads new connections to the port that `choose` says, and breaks all off every so often; then leads them to the server again.
 * Every other time the standby lags behind, and every other time the connections that are there stay at first.
 */
async function lead(
  { forMs, rows }: Fault,
  hit: readonly Target[],
  server: ChaosServer,
  choose: () => number,
  everyMs: number,
): Promise<void> {
  const resume = rows % 2 === 0 ? await server.pauseStandby() : undefined;
  for (const { proxy } of hit) proxy.choose = choose;
  if (rows % 4 < 2) cut(hit);
  for (const end = now() + forMs; now() < end; cut(hit)) await sleep(everyMs);
  for (const { proxy } of hit) proxy.choose = () => proxy.target;
  cut(hit);
  await resume?.();
}

async function each(hit: readonly Target[], work: (member: Member) => Promise<void>): Promise<void> {
  await Promise.all(hit.filter((target) => target instanceof Member).map(work));
}

function cut(hit: readonly Target[]): void {
  for (const { proxy } of hit) proxy.cut();
}

/** Rows of 9 kB, which a notification can't hold, in small transactions. */
async function writeLargeRows(forMs: number, writers: Writers): Promise<void> {
  for (const end = now() + forMs; now() < end; await sleep(5)) await writers.burst(10, 9_000);
}

/** The backend of any consumer, member or writer, drawn from the seed as far as the backends come in the same order. */
function killBackend({ rows }: Fault, server: ChaosServer): Promise<void> {
  return server.killBackend(['chaos consumer %', 'chaos member %', 'chaos writer%'], rows);
}

/**
 * A rolled-back transaction leaves nothing that must survive a crash, not even its id: after the recovery other
 * transactions get the same ids. A cursor that covers those ids skips their rows, if the writers are back before the
 * consumers. A proof may have moved the cursor there; or, every other time, a catch-up: the consumers reconnect half way.
 */
async function afterRollbacks(
  { forMs, rows }: Fault,
  hit: readonly Target[],
  { server, writers }: Targets,
  crash: () => Promise<void>,
): Promise<void> {
  const resume = await writers.pause();
  let out: Promise<void> | undefined;
  try {
    await withClient(server, async (client) => {
      await rollBack(client, forMs / 2);
      if (rows % 2 === 0) cut(hit);
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
    await client.query(
      `BEGIN; INSERT INTO public.signals (signal_name, signal_value) VALUES ('rolled back', 0); ROLLBACK`,
    );
  }
}

/** A backend that listens is recognised by its last query: the server shows it to other sessions in no other way. */
async function terminate(client: pg.Client, hit: readonly Target[], which: keyof typeof WHICH): Promise<number> {
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
  hit: readonly Target[],
  which: keyof typeof WHICH,
): Promise<number> {
  return withClient(server, async (client) => {
    let terminated = 0;
    for (const end = now() + forMs; now() < end; await sleep(20)) terminated += await terminate(client, hit, which);
    return terminated;
  });
}

const WHICH = { listening: `query ~* '^listen'`, others: `query !~* '^listen'`, all: 'true' };

function names(hit: readonly Target[]): string[] {
  return hit.map(({ applicationName }) => applicationName);
}

async function block(hit: readonly Target[], forMs: number, ...ways: Way[]): Promise<void> {
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
