/** CPU time and memory of processes, as Linux counts them. */
import { readFileSync } from 'node:fs';

/** USER_HZ, in which Linux counts for programs: 100 on every machine that Node runs on. */
const TICKS_PER_SECOND = 100;

/** s of CPU that a process has used, and its children: those that run, and those that have ended. */
export function cpuSeconds(pid: number): number {
  const children = readProc(`${pid}/task/${pid}/children`).match(/\d+/g) ?? [];
  return [pid, ...children].reduce<number>((total, each) => total + seconds(each, [14, 15, 16, 17]), 0);
}

/** s of CPU that the children of this process used which have ended. */
export const cpuSecondsOfEndedChildren = (): number => seconds('self', [16, 17]);

/** Does `action`. Resolves with its result and the cores that each process, given by its id, used meanwhile. */
export async function coresDuring<T extends { seconds: number }>(
  pids: Record<string, number>,
  action: () => Promise<T>,
): Promise<[T, Record<string, number>]> {
  const used = () => Object.values(pids).map(cpuSeconds);
  const before = used();
  const result = await action();
  const cores = used().map((after, i) => (after - before[i]!) / result.seconds);
  return [result, Object.fromEntries(Object.keys(pids).map((name, i) => [name, cores[i]!]))];
}

/** Resident memory in MB (10^6 bytes), the pages of the node binary included: now (`VmRSS`), or at its peak (`VmHWM`). */
export function memoryMB(pid: number, figure: 'VmRSS' | 'VmHWM'): number {
  const [, kibibytes] = new RegExp(`^${figure}:\\s+(\\d+) kB$`, 'm').exec(readProc(`${pid}/status`))!;
  return (Number(kibibytes) * 1_024) / 1e6;
}

function seconds(pid: number | string, fields: readonly number[]): number {
  const stat = readProc(`${pid}/stat`);
  // proc(5): field 2 is the name, which may contain anything; field 3 follows its closing parenthesis.
  const values = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return fields.reduce((total, field) => total + Number(values[field - 3] ?? 0), 0) / TICKS_PER_SECOND;
}

/** Empty for a process that has just ended; its parent counts it from then on. */
function readProc(file: string): string {
  try {
    return readFileSync(`/proc/${file}`, 'utf8');
  } catch {
    return '';
  }
}
