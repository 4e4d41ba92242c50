/** One run, from its seed to its outcome: server, consumers, writers, faults, drain, comparison. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { migrate } from '@pg-signals/db/migrate';
import { createRoles } from '@pg-signals/db/roles';
import { calmSpans } from './calm.ts';
import { check, type Verdict } from './check.ts';
import { now } from './clock.ts';
import { Consumer, type ConsumerKind, type ConsumerOptions } from './consumer.ts';
import { FORGED } from './digest.ts';
import { type InjectedFault, inject, type Targets } from './faults.ts';
import { GROUP_KINDS, GROUP_NAMES } from './groups/groupKinds.ts';
import { type GroupResult, Groups, type GroupsOptions } from './groups/groups.ts';
import { TOTALS } from './groups/totals.ts';
import { Random } from './random.ts';
import { drawSchedule, type Fault, needsStandby } from './schedule.ts';
import { ChaosServer } from './server.ts';
import { CONSUMER, DECOYS, FORGER, MEMBER, setOddly } from './settings.ts';
import { readTable } from './table.ts';
import { Writers } from './writers.ts';

const WRITERS = 10;
/** Members that two faults at a time add to the groups. */
const ADDED = 2 * GROUP_NAMES.length;
const RIVALS: readonly ConsumerKind[] = ['pg-listen', 'postgres', 'pg'];
const LISTEN_TIMEOUT_MS = 60_000;
/** How long ours may take after the last commit to deliver everything. */
const DRAIN_TIMEOUT_MS = 30_000;
/** How long all stay connected after that, so that a late duplicate shows. */
const AFTERMATH_MS = 1_000;
/** The longest backoff before an attempt to connect is 30 s; a signal later than that and a proof was forgotten. */
export const LATE_AFTER_MS = 35_000;

export interface RunSettings {
  readonly seed: string;
  readonly seconds: number;
  readonly consumers: number;
  readonly rivals: boolean;
  /** Whether members of groups run, too. */
  readonly groups: boolean;
  /** A group that is made worse on purpose, to see that it is found. */
  readonly spoils: GroupsOptions['spoils'];
  /** Called with each fault and when it began. */
  readonly onFault: (atMs: number, fault: InjectedFault) => void;
  /** Called with the log of each of ours. */
  readonly onLog: ConsumerOptions['onLog'];
}

export interface Outcome {
  readonly startedAt: number;
  readonly rows: number;
  readonly transactions: number;
  /** Transactions whose COMMIT was confirmed and that the table lacks: the server lost them, the run proves nothing. */
  readonly lostByServer: number;
  readonly faults: readonly InjectedFault[];
  readonly results: readonly { readonly consumer: Consumer; readonly verdict: Verdict }[];
  readonly groups: readonly GroupResult[];
}

/**
 * Runs once. However it ends, no process and no file is left behind.
 *
 * @param interrupted rejects to break the run off.
 */
export async function run(settings: RunSettings, interrupted: Promise<never>): Promise<Outcome> {
  await using cleanup = new AsyncDisposableStack();
  return await Promise.race([conduct(settings, cleanup), interrupted]);
}

async function conduct(settings: RunSettings, cleanup: AsyncDisposableStack): Promise<Outcome> {
  const totalMs = settings.seconds * 1_000;
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-chaos-'));
  cleanup.defer(() => rmSync(directory, { recursive: true, force: true }));
  // Each of ours takes at most 4 connections, a member too, a rival 2, the checker the rest: few enough to use them all up quickly.
  const members = settings.groups ? GROUP_NAMES.reduce((sum, name) => sum + GROUP_KINDS[name].members, 0) + ADDED : 0;
  const server = new ChaosServer(directory, 28 + 4 * (settings.consumers + members));
  cleanup.defer(() => server.close());
  await server.start();
  await prepareDatabase(server, settings.seed);
  const schedule = drawSchedule(settings.seed, totalMs, settings.consumers);
  if (needsStandby(schedule)) await server.startStandby();

  const consumers = createConsumers(settings, Object.assign(new URL(server.url), { username: CONSUMER }).href);
  for (const consumer of consumers) cleanup.defer(() => consumer.close());
  await within(LISTEN_TIMEOUT_MS, Promise.all(consumers.map((consumer) => consumer.start())), 'consumers to listen');

  const groups = settings.groups ? createGroups(settings, server, path.join(directory, 'members')) : undefined;
  cleanup.defer(() => groups?.close());
  await groups?.start();

  const writers = new Writers(server, settings.seed);
  const startedAt = now();
  const written = writers.run(WRITERS);
  const faults: InjectedFault[] = [];
  await Promise.race([
    Promise.all([
      injectAll(schedule, { server, writers, consumers, groups }, startedAt, (fault) => {
        faults.push(fault);
        settings.onFault(fault.from - startedAt, fault);
      }),
      sleep(totalMs).then(() => writers.stop()),
    ]),
    written.then(() => new Promise<never>(() => {})), // only its failure counts here
  ]);

  const calm = calmSpans({ from: startedAt, to: now() }, faults);
  const isCalm = (at: number) => calm.some(({ from, to }) => from <= at && at <= to);
  const committed = await readTable(server, writers.committedAt, isCalm);
  await drained(consumers, committed.length);
  await groups?.drained(server, committed.length);
  await Promise.all([...consumers.map((consumer) => consumer.stop()), groups?.stop()]);

  const transactions = new Set(committed.map(({ xid }) => xid));
  return {
    startedAt,
    rows: committed.length,
    transactions: transactions.size,
    lostByServer: [...writers.committedAt.keys()].filter((xid) => !transactions.has(xid)).length,
    faults,
    results: consumers.map((consumer) => ({
      consumer,
      verdict: check(
        committed,
        consumer.deliveries(),
        LATE_AFTER_MS,
        consumer.kind === 'ours' ? consumer.logged : undefined,
      ),
    })),
    groups: (await groups?.results(server, committed)) ?? [],
  };
}

/** The schema, odd settings drawn from the seed, and the roles of the consumers and of the forger. */
async function prepareDatabase(server: ChaosServer, seed: string): Promise<void> {
  const { password } = new URL(server.url);
  const client = await server.connect('setup');
  await client.query(`${DECOYS}; CREATE ROLE ${FORGER} LOGIN PASSWORD '${password}'; CREATE ROLE ${CONSUMER};
    CREATE ROLE ${MEMBER} LOGIN PASSWORD '${password}' IN ROLE ${CONSUMER}`);
  await setOddly(client, CONSUMER, new Random(seed, 'settings'));
  await client.end();
  await migrate(server.url);
  await createRoles(server.url, { [CONSUMER]: password });
  const migrated = await server.connect('setup');
  await migrated.query(TOTALS);
  await migrated.end();
}

/** A cohort for each of ours; the rivals are in the first, so that the same faults hit them and our first consumer. */
function createConsumers({ consumers, rivals, onLog }: RunSettings, url: string): Consumer[] {
  return [
    ...Array.from({ length: consumers }, (_, cohort) => ({
      kind: 'ours' as const,
      name: `ours-${cohort + 1}`,
      cohort,
    })),
    ...(rivals ? RIVALS : []).map((kind) => ({ kind, name: kind, cohort: 0 })),
  ].map((options) => new Consumer({ ...options, url, onLog }));
}

function createGroups({ consumers, onLog, spoils }: RunSettings, server: ChaosServer, directory: string): Groups {
  const url = Object.assign(new URL(server.url), { username: MEMBER }).href;
  return new Groups({ names: GROUP_NAMES, cohorts: consumers, url, directory, onLog, spoils });
}

async function injectAll(
  schedule: readonly Fault[],
  targets: Targets,
  startedAt: number,
  onFault: (fault: InjectedFault) => void,
): Promise<void> {
  await Promise.all(
    schedule.map(async (fault) => {
      await sleep(Math.max(0, startedAt + fault.atMs - now()));
      onFault(await inject(fault, targets));
    }),
  );
}

/** Waits until each of ours has delivered every row, or for the timeout; then a little longer. */
async function drained(consumers: readonly Consumer[], rows: number): Promise<void> {
  const end = now() + DRAIN_TIMEOUT_MS;
  const ours = consumers.filter(({ kind }) => kind === 'ours');
  while (now() < end && ours.some((consumer) => !hasAll(consumer, rows))) await sleep(200);
  await sleep(AFTERMATH_MS);
}

function hasAll(consumer: Consumer, rows: number): boolean {
  if (consumer.received < rows) return false;
  const ids = new Set<number>();
  for (const { id, digest } of consumer.deliveries()) if (digest !== FORGED) ids.add(id);
  return ids.size >= rows;
}

async function within<T>(ms: number, work: Promise<T>, what: string): Promise<T> {
  const timeout = new AbortController();
  const late = sleep(ms, undefined, { signal: timeout.signal }).then(() => {
    throw new Error(`Waited ${ms / 1_000} s for the ${what}`);
  });
  late.catch(() => {});
  try {
    return await Promise.race([work, late]);
  } finally {
    timeout.abort();
  }
}
