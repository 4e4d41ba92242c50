/** Which faults a run injects and when, drawn from the seed before the run begins. */
import { LEASE_MS } from './groups/groupKinds.ts';
import { Random } from './random.ts';

/** How long a fault of each kind lasts, in ms, and whether it hits one cohort of consumers and members or all, by the server. */
const KINDS = {
  'terminate the listening backend': { ms: [0, 0], scope: 'cohort' },
  'terminate the other backends': { ms: [0, 0], scope: 'cohort' },
  'terminate all backends in a loop': { ms: [1_000, 2_000], scope: 'cohort' },
  'terminate the other backends among large rows': { ms: [1_000, 2_000], scope: 'cohort' },
  'cut the connections': { ms: [0, 0], scope: 'cohort' },
  'silence both ways': { ms: [1_000, 4_000], scope: 'cohort' },
  'silence towards the client': { ms: [1_000, 4_000], scope: 'cohort' },
  'silence towards the server': { ms: [1_000, 4_000], scope: 'cohort' },
  'half-open connections': { ms: [0, 0], scope: 'cohort' },
  'slow network': { ms: [1_000, 4_000], scope: 'cohort' },
  'accept and never answer': { ms: [1_000, 4_000], scope: 'cohort' },
  'slow callback in a burst': { ms: [1_000, 3_000], scope: 'cohort' },
  'frozen process in a burst': { ms: [1_000, 3_000], scope: 'cohort' },
  'too many connections': { ms: [1_000, 2_000], scope: 'server' },
  'crash of the server': { ms: [0, 2_000], scope: 'server' },
  'crash after rollbacks': { ms: [600, 1_200], scope: 'server' },
  'crash in a catch-up': { ms: [700, 1_500], scope: 'server' },
  'crash of one backend': { ms: [0, 0], scope: 'server' },
  'crash of one backend after rollbacks': { ms: [600, 1_200], scope: 'server' },
  'restart of the server': { ms: [0, 2_000], scope: 'server' },
  'other settings of database and role': { ms: [0, 0], scope: 'cohort' },
  'address of a standby': { ms: [1_000, 4_000], scope: 'cohort' },
  'address of server or standby at random': { ms: [1_000, 4_000], scope: 'cohort' },
  'forged notifications': { ms: [1_000, 2_000], scope: 'cohort' },
  'blocked log in a burst': { ms: [1_000, 3_000], scope: 'cohort' },
  'kill members': { ms: [0, 1_500], scope: 'cohort' },
  'kill members in a burst': { ms: [0, 500], scope: 'cohort' },
  'freeze members past their lease': { ms: [LEASE_MS + 500, LEASE_MS + 2_000], scope: 'cohort' },
  'scale down and up': { ms: [0, 1_500], scope: 'cohort' },
  'scale up and down': { ms: [1_500, 4_000], scope: 'cohort' },
} as const satisfies Record<string, { ms: readonly [number, number]; scope: 'cohort' | 'server' }>;

export type FaultKind = keyof typeof KINDS;
export const FAULT_KINDS = Object.keys(KINDS) as FaultKind[];

export interface Fault {
  readonly kind: FaultKind;
  /** When it begins, in ms since the writers began. */
  readonly atMs: number;
  readonly forMs: number;
  /** Which consumers and members it hits. */
  readonly cohort: number | 'all';
  /** How many rows are written meanwhile, where the fault has a burst; other faults use it as a random number. */
  readonly rows: number;
}

/** True where the schedule has a fault that needs a standby. */
export function needsStandby(schedule: readonly Fault[]): boolean {
  return schedule.some(({ kind }) => kind.includes('standby'));
}

/** The time without faults at the start and at the end of a run of `totalMs`. */
export function quietEnds(totalMs: number): { headMs: number; tailMs: number } {
  return { headMs: Math.min(3_000, totalMs / 10), tailMs: Math.min(6_000, totalMs / 3) };
}

/**
 * Draws the faults of a run: rounds of one to three that overlap, with gaps between; every fourth gap is long enough
 * for all to settle. Every kind comes once before any comes again.
 */
export function drawSchedule(seed: string, totalMs: number, cohorts: number): Fault[] {
  const random = new Random(seed, 'faults');
  const { headMs, tailMs } = quietEnds(totalMs);
  const faults: Fault[] = [];
  let deck: FaultKind[] = [];
  let at = headMs;
  for (let round = 1; ; round++) {
    let roundEnd = at;
    for (let count = random.int(1, 3); count > 0; count--) {
      if (deck.length === 0) deck = random.shuffle(FAULT_KINDS);
      const fault = drawFault(random, deck.pop()!, at + random.int(0, 1_500), cohorts);
      if (fault.atMs + fault.forMs > totalMs - tailMs) return faults.sort((a, b) => a.atMs - b.atMs);
      faults.push(fault);
      roundEnd = Math.max(roundEnd, fault.atMs + fault.forMs);
    }
    at = roundEnd + (round % 4 === 0 ? 6_000 : random.int(300, 2_500));
  }
}

function drawFault(random: Random, kind: FaultKind, atMs: number, cohorts: number): Fault {
  const { ms, scope } = KINDS[kind];
  const forMs = random.int(ms[0], ms[1]);
  const everyone = random.chance(1 / 3) || scope === 'server';
  const cohort = random.int(0, cohorts - 1);
  return { kind, atMs, forMs, cohort: everyone ? 'all' : cohort, rows: random.int(2_000, 10_000) };
}
