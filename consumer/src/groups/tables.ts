/** Groups as tables for people. */
import type { DeadLetter, GroupState, LaneState, MemberState, RetryState } from 'pg-signals';

/** A table as text: the first row is its heading; columns of numbers are aligned on the right. */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const cells = rows.map((row) => row.map((cell) => printable(String(cell))));
  const widths = cells[0]!.map((_, column) => Math.max(...cells.map((row) => row[column]!.length)));
  const isNumber = widths.map((_, column) => rows.length > 1 && rows.slice(1).every((row) => isNumeric(row[column]!)));
  const line = (row: readonly string[]) =>
    row.map((cell, at) => (isNumber[at] ? cell.padStart(widths[at]!) : cell.padEnd(widths[at]!))).join('  ');
  return cells.map((row) => `${line(row).trimEnd()}\n`).join('');
}

const isNumeric = (cell: string | number) => typeof cell === 'number' || /^([>\d][\d.]*( s)?|-|\?)$/.test(cell);

/** What a handler has thrown may hold whatever a terminal takes for a command. */
const printable = (text: string) => text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ');

export function groupsTable(groups: readonly GroupState[]): string {
  if (groups.length === 0) return 'no groups yet\n';
  return table([
    ['group', 'order', 'lanes', 'members', 'lag', 'behind', 'in flight', 'retries', 'dead letters'],
    ...groups.map((group) => [
      group.slot ? `${group.name} (slot)` : group.name,
      group.order ?? '-',
      group.lanes,
      membersText(group.members),
      lagText(group),
      secondsText(group.lag_seconds),
      group.in_flight,
      group.retries,
      group.dead_letters,
    ]),
  ]);
}

function membersText(members: readonly MemberState[]): string {
  const alive = members.filter((member) => member.alive).length;
  return alive === members.length ? String(alive) : `${alive} + ${members.length - alive} expired`;
}

/** `>1000000` where reading stopped there; `?` where there is nothing to read, or nothing was found by then. */
export function lagText({
  lag_rows: rows,
  lag_at_least: atLeast,
}: Pick<GroupState, 'lag_rows' | 'lag_at_least'>): string {
  if (rows === null || (atLeast && rows === 0)) return '?';
  return atLeast ? `>${rows - 1}` : String(rows);
}

const secondsText = (seconds: number | null) =>
  seconds === null ? '?' : `${seconds === 0 || seconds >= 100 ? Math.round(seconds) : seconds.toFixed(1)} s`;

/** Lanes that stand alike are in one row. */
export function lanesTable(lanes: readonly LaneState[], now = Date.now()): string {
  const alike = new Map<string, LaneState[]>();
  for (const lane of lanes) {
    const key = JSON.stringify({ ...lane, lane: undefined });
    alike.set(key, [...(alike.get(key) ?? []), lane]);
  }
  return table([
    ['lanes', 'owner', 'epoch', 'lease', 'lag of each', 'behind'],
    ...[...alike.values()].map((same) => {
      const [lane] = same as [LaneState];
      const epoch = lane.epoch ?? '-';
      const numbers = same.map((each) => each.lane);
      return [
        ranges(numbers),
        lane.owner ?? '-',
        epoch,
        leaseText(lane, now),
        lagText(lane),
        secondsText(lane.lag_seconds),
      ];
    }),
  ]);
}

function leaseText({ lease_until: until, alive }: LaneState, now: number): string {
  if (until === null) return '-';
  const seconds = Math.abs((Date.parse(until) - now) / 1_000).toFixed(1);
  return alive ? `${seconds} s left` : `expired ${seconds} s ago`;
}

/** Growing numbers as `0-15,20`. */
export function ranges(numbers: readonly number[]): string {
  const parts: [first: number, last: number][] = [];
  for (const number of numbers) {
    const open = parts.at(-1);
    if (open && open[1] === number - 1) open[1] = number;
    else parts.push([number, number]);
  }
  return parts.map(([first, last]) => (first === last ? String(first) : `${first}-${last}`)).join();
}

export const retriesTable = (retries: readonly RetryState[]): string =>
  table([
    ['signal', 'lane', 'key', 'attempts', 'due', 'last error'],
    ...retries.map(({ signal_id, lane, key, attempts, due_at, running, last_error }) => {
      const due = running !== null ? `runs now (epoch ${running})` : (due_at ?? 'behind another of its key');
      return [signal_id, lane, shorten(key ?? '-'), attempts, due, shorten(last_error ?? '-')];
    }),
  ]);

export const deadLettersTable = (letters: readonly DeadLetter[]): string =>
  table([
    ['signal', 'attempts', 'died at', 'last error', 'row'],
    ...letters.map(({ signal_id, attempts, died_at, last_error, signal }) => {
      const row = signal === null ? 'was deleted' : JSON.stringify(signal);
      return [signal_id, attempts, died_at, shorten(last_error ?? '-'), shorten(row)];
    }),
  ]);

const shorten = (text: string) => (text.length > 60 ? `${text.slice(0, 59)}…` : text);
