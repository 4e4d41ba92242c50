/** The memory of a process, as Linux counts it. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

/** Resident set size in MB (10^6 bytes): all pages in memory, those of the node binary included. */
export function residentMB(pid: number): number {
  const [, kibibytes] = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))!;
  return (Number(kibibytes) * 1_024) / 1e6;
}

/** The most that was ever resident of a process, in MB (10^6 bytes). */
export function peakMB(pid: number): number {
  const [, kibibytes] = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))!;
  return (Number(kibibytes) * 1_024) / 1e6;
}

/** What Node takes before a line of ours is loaded, `afterMs` from its start. */
export async function bareNodeMB(afterMs: number): Promise<number> {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e6)'], { stdio: 'ignore' });
  await sleep(afterMs);
  const resident = residentMB(child.pid!);
  child.kill();
  return resident;
}
