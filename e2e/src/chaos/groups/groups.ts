/** All members of the groups under test: started, made more and fewer, awaited, and compared with the table. */
import { mkdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { now } from '../clock.ts';
import type { ChaosServer } from '../server.ts';
import { checkGroup, checkTotals, type GroupRow, type GroupVerdict } from './checkGroup.ts';
import { GROUP_KINDS, type GroupName } from './groupKinds.ts';
import { Member, type MemberOptions } from './member.ts';
import type { SpoilName } from './spoiled.ts';
import { countCounted, readTotals } from './totals.ts';

/** The longest that nothing may happen before all is handled, in ms: the longest backoff, and five seconds more. */
const STALL_MS = 35_000;
/** The longest that a drain takes at all: then what is left is missing. */
const DRAIN_MS = 90_000;

export interface GroupsOptions extends Pick<MemberOptions, 'url' | 'directory' | 'onLog'> {
  readonly names: readonly GroupName[];
  /** The members are spread over so many. */
  readonly cohorts: number;
  /** Groups that are made worse, each in one way. */
  readonly spoils?: Partial<Record<GroupName, SpoilName>> | undefined;
  readonly stallMs?: number;
}

export interface GroupResult {
  readonly group: GroupName;
  readonly verdict: GroupVerdict;
  /** Ends of its processes that no one asked for. */
  readonly ends: readonly string[];
}

export class Groups {
  readonly members: Member[] = [];
  readonly #options: GroupsOptions;

  constructor(options: GroupsOptions) {
    this.#options = options;
    mkdirSync(options.directory, { recursive: true });
    for (const group of options.names) {
      for (let i = 0; i < GROUP_KINDS[group].members; i++) this.#add(group, i % options.cohorts);
    }
  }

  async start(): Promise<void> {
    await Promise.all(this.members.map((member) => member.start()));
  }

  /** One member more in each group, for so long. */
  async scaleUp(forMs: number, cohort: number): Promise<void> {
    const added = this.#options.names.map((group) => this.#add(group, cohort));
    await Promise.all(added.map((member) => member.start()));
    await sleep(forMs);
    await Promise.all(added.map((member) => member.stop()));
  }

  /** Resolves when every row is handled, or a dead letter; or when nothing has happened for a while. */
  async drained(server: ChaosServer, rows: number): Promise<void> {
    const end = now() + DRAIN_MS;
    let last = -1;
    for (let since = now(); ; await sleep(500)) {
      const counts = await Promise.all(this.#options.names.map((group) => this.#count(group, server)));
      const handled = this.#options.names.map((group, i) => `${group} ${counts[i]}`).join(', ');
      this.#options.onLog('groups', `handled of ${rows} rows: ${handled}`);
      if (counts.every((count) => count >= rows) || now() > end) return;
      const sum = counts.reduce((a, b) => a + b, 0);
      if (sum !== last) since = now();
      if (now() - since > (this.#options.stallMs ?? STALL_MS)) return;
      last = sum;
    }
  }

  /** Every member leaves in order. */
  async stop(): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop()));
  }

  close(): void {
    for (const member of this.members) member.close();
  }

  /** Call it when no member runs any more. */
  async results(server: ChaosServer, committed: readonly GroupRow[]): Promise<GroupResult[]> {
    const results: GroupResult[] = [];
    for (const group of this.#options.names) {
      const members = this.#of(group);
      const dead = await readDead(server, group);
      const verdict =
        group === 'totals'
          ? checkTotals(committed, await readTotals(server), dead)
          : checkGroup(GROUP_KINDS[group], committed, runsOf(members), dead);
      const ends = members.flatMap((member) => member.ends.map((end) => `${member.name}: ${end}`));
      results.push({ group, verdict, ends });
    }
    return results;
  }

  async #count(group: GroupName, server: ChaosServer): Promise<number> {
    if (group === 'totals') return countCounted(server);
    const ids = new Set((await readDead(server, group)).keys());
    for (const { runs } of runsOf(this.#of(group))) {
      for (const { id, endedAt, failed } of runs) if (endedAt !== undefined && !failed) ids.add(id);
    }
    return ids.size;
  }

  #of(group: GroupName): Member[] {
    return this.members.filter((member) => member.group === group);
  }

  #add(group: GroupName, cohort: number): Member {
    const name = `${group}-${this.#of(group).length + 1}`;
    const { url, directory, onLog, spoils } = this.#options;
    const member = new Member({ group, name, cohort, url, directory, onLog, spoil: spoils?.[group] });
    this.members.push(member);
    return member;
  }
}

function runsOf(members: readonly Member[]) {
  return members.flatMap(({ name, logs }) =>
    logs.map((log, i) => {
      log.read();
      return { member: `${name}, process ${i + 1}`, runs: log.runs, left: log.left };
    }),
  );
}

async function readDead(server: ChaosServer, group: GroupName): Promise<Map<number, number>> {
  const client = await server.connect('check');
  try {
    const { rows } = await client.query<{ signal_id: string; attempts: number }>(
      'SELECT signal_id, attempts FROM public.dead_letters WHERE group_name = $1',
      [group],
    );
    return new Map(rows.map(({ signal_id, attempts }) => [Number(signal_id), attempts]));
  } finally {
    await client.end();
  }
}
