/** `make chaos` finds what a group does wrong: in what its members report, and in groups that are made worse on purpose. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { migrate } from '@pg-signals/db/migrate';
import type pg from 'pg';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  checkGroup,
  checkTotals,
  type GroupRow,
  type GroupVerdict,
  type GroupViolation,
} from '../src/chaos/groups/checkGroup.ts';
import { GROUP_NAMES, type GroupKind, type GroupName, repeatsOf } from '../src/chaos/groups/groupKinds.ts';
import { Groups } from '../src/chaos/groups/groups.ts';
import type { Run } from '../src/chaos/groups/runLog.ts';
import { countCounted, TOTALS } from '../src/chaos/groups/totals.ts';
import { insertSelect } from '../src/chaos/plans.ts';
import { ChaosServer } from '../src/chaos/server.ts';

const kind: GroupKind = {
  members: 2,
  concurrency: 1,
  retries: 2,
  failures: (id) => (id === 9 ? Number.POSITIVE_INFINITY : 0),
  handlerMs: 0,
};
const rows: GroupRow[] = [1, 2, 3].map((id) => ({ id, xid: '70', key: 'a', committedAt: 0 }));
const none = new Map<number, number>();

describe('checkGroup', () => {
  test('passes when each row is handled once, or again within the bound after a member that was killed', () => {
    expect(found([runs([1, 2, 3], 1)], { left: [1] })).toEqual({});
    const verdict = checkGroup(kind, rows, [members([runs([1, 2], 1)], []), members([runs([2, 3], 2, 10)], [2])], none);
    expect(verdict).toMatchObject({ handled: 3, repeated: 1, allowed: repeatsOf(kind) });
    expect(broken(verdict)).toEqual({});
  });

  test('finds a row that no member has handled, or begun alone', () => {
    expect(found([runs([1, 2], 1)])).toEqual({ missing: 1 });
    expect(found([[...runs([1, 2], 1), { ...run(3, 1, 5), endedAt: undefined }]])).toEqual({ missing: 1 });
    expect(found([[...runs([1, 2], 1), { ...run(3, 1, 5), failed: true }]])).toEqual({ missing: 1 });
  });

  test('finds what comes again after a member that left in order', () => {
    expect(found([runs([1, 2, 3], 1), runs([3], 2, 10)], { left: [1, 2] })).toEqual({ 'repeated beyond': 1 });
  });

  test('finds what comes again though too many rows were handled after it', () => {
    const ids = Array.from({ length: repeatsOf(kind) + 1 }, (_, i) => i + 1);
    const many = ids.map((id) => ({ id, xid: '70', key: 'a', committedAt: 0 }));
    const again = (id: number) => [members([runs(ids, 1)], []), members([runs([id], 2, 10_000)], [2])];
    expect(broken(checkGroup(kind, many, again(1), none))).toEqual({ 'repeated beyond': 1 });
    expect(broken(checkGroup(kind, many, again(2), none))).toEqual({});
  });

  test('lets a member that was frozen finish what it had in hand, and begin nothing', () => {
    const late: Run = { ...run(3, 1, 2), endedAt: 50 };
    expect(found([[...runs([1, 2], 1), late], runs([3], 2, 10)], { left: [2] })).toEqual({});
    const begun: Run = { ...run(3, 1, 40), endedAt: 50 };
    expect(found([[...runs([1, 2], 1), begun], runs([3], 2, 10)], { left: [2] })).toEqual({ 'repeated beyond': 1 });
  });

  test('finds two members under one epoch', () => {
    expect(found([runs([1, 2], 1), runs([3], 1, 10)])).toEqual({ 'two owners': 1 });
  });

  test('finds a row that is begun before the one before it, of the same key, is handled', () => {
    const order = { order: 'signal_name' } as const;
    expect(found([runs([1, 2, 3], 1)], order)).toEqual({});
    expect(found([runs([1, 3, 2], 1)], order)).toEqual({ misplaced: 1 });
    expect(found([[run(1, 1, 0), { ...run(2, 1, 2), endedAt: 5 }, run(3, 1, 4)]], order)).toEqual({ misplaced: 1 });
  });

  test('finds a row that was given up too soon, or though nothing was wrong with it', () => {
    const nine = { ...rows[0]!, id: 9 };
    const failed = [1, 2, 3].map((attempt) => ({ ...run(9, 1, attempt), attempt, failed: true }));
    const verdict = (attempts: number) => checkGroup(kind, [nine], [members([failed], [1])], new Map([[9, attempts]]));
    expect(broken(verdict(3))).toEqual({});
    expect(broken(verdict(2))).toEqual({ 'given up': 1 });
    expect(
      found([runs([1, 2], 1), [run(3, 2, 5), run(3, 2, 7), run(3, 2, 9)].map((each) => ({ ...each, failed: true }))], {
        dead: [3],
      }),
    ).toEqual({ 'given up': 1 });
  });

  test('finds a row that was never committed', () => {
    expect(found([runs([1, 2, 3, 4], 1)])).toEqual({ invented: 1 });
  });
});

test('checkTotals finds rows that are counted twice, or not, or in no total', () => {
  const totals = (ids: number[], wrong: string[] = []) => ({
    counts: new Map([...Map.groupBy(ids, (id) => id)].map(([id, all]) => [id, all.length])),
    wrong,
  });
  expect(broken(checkTotals(rows, totals([1, 2, 3]), none))).toEqual({});
  expect(broken(checkTotals(rows, totals([1, 2]), none))).toEqual({ missing: 1 });
  expect(broken(checkTotals(rows, totals([1, 2, 3, 3]), none))).toEqual({ 'counted wrongly': 1 });
  expect(broken(checkTotals(rows, totals([1, 2, 3, 4]), none))).toEqual({ invented: 1 });
  expect(broken(checkTotals(rows, totals([1, 2, 3], ['w1']), none))).toEqual({ 'counted wrongly': 1 });
});

test('groups that are made worse on purpose are found', { timeout: 120_000, retry: 1 }, async () => {
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-chaos-groups-'));
  const server = new ChaosServer(directory, 60);
  await server.start();
  const groups = new Groups({
    names: GROUP_NAMES,
    cohorts: 1,
    url: server.url,
    directory: path.join(directory, 'members'),
    onLog: () => {},
    spoils: {
      plain: 'checkpoints before handling',
      keyed: 'breaks the order',
      totals: 'counts outside the transaction',
    },
    stallMs: 3_000,
  });
  onTestFinished(async () => {
    groups.close();
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  });
  await migrate(server.url);
  const client = await server.connect('test');
  await client.query(TOTALS);
  await client.query(insertSelect('w1', 1_000));
  await client.query(insertSelect('w1', 1_000));
  await groups.start();
  const kill = (group: GroupName) =>
    Promise.all(groups.members.filter((member) => member.group === group).map((member) => member.kill(0)));
  const killAtWork = async (group: GroupName, isAtWork: () => Promise<boolean>) => {
    while (!(await isAtWork())) await sleep(20);
    await kill(group);
  };
  const hasStored = `SELECT FROM signal_group_members JOIN signal_groups ON id = group_id
    WHERE signal_groups.name = 'plain' AND cursors::text NOT LIKE '%"at": "3:3:"%' AND cursors <> '[]'`;
  await Promise.all([
    killAtWork('plain', async () => (await client.query(hasStored)).rowCount! > 0),
    killAtWork('totals', async () => (await countCounted(server)) > 0),
  ]);
  await groups.drained(server, 2_000);
  await groups.stop();
  const results = await groups.results(server, await readRows(client));
  await client.end();
  const violations = Object.fromEntries(results.map(({ group, verdict }) => [group, verdict.violations]));
  expect(violations.plain!.missing).toBeGreaterThan(0);
  expect(violations.keyed!.misplaced).toBeGreaterThan(0);
  expect(violations.totals!['counted wrongly']).toBeGreaterThan(0);
});

async function readRows(client: pg.Client): Promise<GroupRow[]> {
  const { rows: all } = await client.query<{ id: string; xid: string; key: string }>(
    'SELECT id, xid::text, signal_name AS key FROM signals',
  );
  return all.map(({ id, xid, key }) => ({ id: Number(id), xid, key, committedAt: undefined }));
}

function run(id: number, epoch: number, at: number): Run {
  return { id, lane: 0, epoch, attempt: 1, begunAt: at, endedAt: at + 1, failed: false };
}

/** One after another, from `at` on. */
function runs(ids: readonly number[], epoch: number, at = 0): Run[] {
  return ids.map((id, i) => run(id, epoch, at + 2 * i));
}

let count = 0;
const members = (its: readonly Run[][], left: readonly number[]) => ({ member: `m${++count}`, runs: its.flat(), left });

/** The rules that are broken by processes that did these runs. */
function found(
  processes: readonly Run[][],
  { left = [] as number[], dead = [] as number[], order = undefined as 'signal_name' | undefined } = {},
): Partial<Record<GroupViolation, number>> {
  const all = processes.map((its) => members([its], left));
  const its = order ? { ...kind, order } : kind;
  return broken(checkGroup(its, rows, all, new Map(dead.map((id) => [id, kind.retries + 1]))));
}

function broken({ violations }: GroupVerdict): Partial<Record<GroupViolation, number>> {
  return Object.fromEntries(Object.entries(violations).filter(([, times]) => times > 0));
}
