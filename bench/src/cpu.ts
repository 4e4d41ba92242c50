/** The CPU time of processes, as Linux counts it. */
import { readdirSync, readFileSync } from 'node:fs';

/** What Linux counts in, for programs: USER_HZ, 100 on every machine that Node runs on. */
const TICKS_PER_SECOND = 100;

/** s that a process took so far, with all below it: the children that live, and those that ended and were waited for. */
export function cpuSecondsOfTree(pid: number): number {
  const { own, ended } = readTicks(pid);
  const children = childrenOf(pid).map(cpuSecondsOfTree);
  return children.reduce((sum, seconds) => sum + seconds, (own + ended) / TICKS_PER_SECOND);
}

/** s that those children of this process took which have ended: two readings apart by what ended in between. */
export const cpuSecondsOfEndedChildren = (): number => readTicks('self').ended / TICKS_PER_SECOND;

function readTicks(pid: number | 'self'): { own: number; ended: number } {
  const stat = read(`/proc/${pid}/stat`);
  // proc(5): the name, field 2, may hold anything; the state, field 3, is the first one after its parenthesis.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const field = (number: number) => Number(fields[number - 3] ?? 0);
  return { own: field(14) + field(15), ended: field(16) + field(17) };
}

function childrenOf(pid: number): number[] {
  let threads: string[] = [];
  try {
    threads = readdirSync(`/proc/${pid}/task`);
  } catch {} // it has just ended
  return threads.flatMap((thread) =>
    read(`/proc/${pid}/task/${thread}/children`).split(' ').filter(Boolean).map(Number),
  );
}

/** Empty for a process that has just ended; its parent counts it from then on. */
function read(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
