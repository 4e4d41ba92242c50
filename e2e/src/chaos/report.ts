/** Writes what a run found, for people: the faults, a line for each consumer, and the first violations. */
import { LEAD_MS, SETTLE_MS } from './calm.ts';
import type { Example, Verdict, Violation } from './check.ts';
import type { InjectedFault } from './faults.ts';
import { GROUP_VIOLATIONS } from './groups/checkGroup.ts';
import type { GroupResult } from './groups/groups.ts';
import { LATE_AFTER_MS, type Outcome } from './run.ts';

const VIOLATIONS: readonly Violation[] = [
  'missing',
  'duplicated',
  'invented',
  'out of order',
  'without values',
  'late',
  'not logged',
];

/** A shorter run, or one without faults, says nothing about a rival. */
const RIVAL_MUST_LOSE_AFTER_S = 30;

/** @returns the text and whether ours kept every rule. */
export function report(outcome: Outcome, seconds: number): { text: string; passed: boolean } {
  const { rows, transactions, faults, results } = outcome;
  const lines = [
    '',
    `${count(rows)} rows committed in ${count(transactions)} transactions; ${faults.length} faults:`,
    ...countKinds(faults),
    '',
    ...table([
      ['consumer', 'delivered', 'forged', ...VIOLATIONS, 'ended', 'calm p50 ms', 'p99', 'longest', 'longest of all ms'],
      ...results.map(({ consumer, verdict }) => [
        consumer.name,
        count(verdict.delivered),
        count(verdict.forged),
        ...VIOLATIONS.map((kind) => count(verdict.violations[kind])),
        count(consumer.ends.length),
        ms(percentile(verdict.calmDelays, 0.5)),
        ms(percentile(verdict.calmDelays, 0.99)),
        ms(verdict.calmDelays.at(-1)),
        ms(verdict.longestDelay),
      ]),
    ]),
    '',
    `calm: from commit to delivery of rows committed ${SETTLE_MS / 1_000} s or more after a fault and ${LEAD_MS / 1_000} s or more before the next;`,
    `late: over ${LATE_AFTER_MS / 1_000} s in calm; ended: how often the process ended by itself; forged: not counted in the others`,
  ];
  if (outcome.groups.length > 0) lines.push('', ...describeGroups(outcome.groups));
  if (outcome.lostByServer > 0) {
    lines.push(
      '',
      `The server lost ${outcome.lostByServer} transactions whose commit it had confirmed: the run proves nothing.`,
    );
  }
  let passed = outcome.lostByServer === 0;
  for (const { consumer, verdict } of results) {
    if (consumer.kind === 'ours') {
      if (!isClean(verdict) || consumer.ends.length > 0) passed = false;
      for (const example of verdict.examples) lines.push(`${consumer.name}: ${describe(example, outcome)}`);
      for (const end of consumer.ends) lines.push(`${consumer.name} ended: ${end}`);
    } else if (verdict.violations.missing === 0 && seconds >= RIVAL_MUST_LOSE_AFTER_S && faults.length > 0) {
      lines.push(`WARNING: ${consumer.name} lost NOTHING. A checker that finds nothing in a rival is too weak.`);
    }
  }
  for (const { group, verdict, ends } of outcome.groups) {
    if (Object.values(verdict.violations).some((times) => times > 0) || ends.length > 0) passed = false;
    for (const example of verdict.examples) lines.push(`${group}: ${example}`);
    for (const end of ends) lines.push(`${group}: ${end}`);
  }
  return { text: lines.join('\n'), passed };
}

function describeGroups(groups: readonly GroupResult[]): string[] {
  return [
    ...table([
      ['group', 'handled', 'repeated', 'allowed', 'dead letters', ...GROUP_VIOLATIONS, 'ended', 'longest ms'],
      ...groups.map(({ group, verdict, ends }) => [
        group,
        count(verdict.handled),
        count(verdict.repeated),
        count(verdict.allowed),
        count(verdict.deadLetters),
        ...GROUP_VIOLATIONS.map((kind) => count(verdict.violations[kind])),
        count(ends.length),
        ms(verdict.longestDelay),
      ]),
    ]),
    '',
    'allowed: what may come again after the members that were killed, or lost their lanes; repeated beyond: what came again besides',
  ];
}

function isClean(verdict: Verdict): boolean {
  return Object.values(verdict.violations).every((times) => times === 0);
}

function countKinds(faults: readonly InjectedFault[]): string[] {
  const kinds = Map.groupBy(faults, ({ kind }) => kind);
  return [...kinds].sort().map(([kind, { length }]) => `  ${String(length).padStart(3)} ${kind}`);
}

/** One violation, with what was broken around its commit. */
function describe({ violation, id, xid, committedAt, deliveredAt }: Example, { startedAt, faults }: Outcome): string {
  const time = (at: number) => `+${((at - startedAt) / 1_000).toFixed(3)} s`;
  const parts = [`${violation}: id ${id}`];
  if (xid !== undefined) parts.push(`transaction ${xid}`);
  if (committedAt !== undefined) {
    parts.push(`committed ${time(committedAt)}`);
    const last = faults.filter(({ from }) => from <= committedAt).sort((a, b) => b.from - a.from)[0];
    if (last) parts.push(`last fault "${last.kind}", cohort ${cohort(last)}, ${time(last.from)} to ${time(last.to)}`);
  }
  if (deliveredAt !== undefined) parts.push(`delivered ${time(deliveredAt)}`);
  return parts.join(', ');
}

/** Counted from 1, like the consumers. */
export function cohort(fault: InjectedFault): string {
  return fault.cohort === 'all' ? 'all' : String(fault.cohort + 1);
}

/** The first column to the left, figures to the right. */
function table(rows: readonly string[][]): string[] {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows.map((row) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
  );
}

function percentile(ascending: readonly number[], share: number): number | undefined {
  return ascending[Math.min(ascending.length - 1, Math.floor(ascending.length * share))];
}

function count(value: number): string {
  return value.toLocaleString('en-US');
}

function ms(value: number | undefined): string {
  return value === undefined ? '-' : count(Math.round(value));
}
