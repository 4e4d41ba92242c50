/** Measuring in turns, and medians of what was measured. */
import { setTimeout as sleep } from 'node:timers/promises';

/** Every figure of one turn, under the name that the table prints. */
export type Figures = Record<string, number>;

/** How often each turn is measured: the environment's `ROUNDS`, or `byDefault`. */
export const roundsOr = (byDefault: number): number => Number(process.env.ROUNDS ?? byDefault);
export const ROUNDS = roundsOr(5);

/** The value below which the share `q` (0 to 1) of the values lies: nearest rank, so always one that was measured. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)]!;
}
export const median = (values: readonly number[]): number => quantile(values, 0.5);

/**
 * Measures every name in each round (A B C A B C …), so that a slow spell of the machine slows all of them. Resolves with
 * the figures of all rounds. `uncounted` more rounds come first, in which Node compiles the code.
 */
export async function inTurns<Name extends string>(
  names: readonly Name[],
  rounds: number,
  measure: (name: Name) => Promise<Figures>,
  uncounted = 0,
): Promise<Map<string, Figures[]>> {
  const turns = new Map<string, Figures[]>(names.map((name) => [name, []]));
  for (let round = -uncounted; round < rounds; round++) {
    for (const name of names) {
      const figures = await measure(name);
      if (round >= 0) turns.get(name)!.push(figures);
    }
  }
  return turns;
}

/** Adds to each round of each name its `figure` in % of the peer's in the same round, which ran in the same conditions. */
export function compare(turns: Map<string, Figures[]>, figure: string, peer: string, column: string): void {
  for (const rounds of turns.values()) {
    rounds.forEach((round, i) => {
      round[column] = (100 * round[figure]!) / turns.get(peer)![i]![figure]!;
    });
  }
}

/** Of each name the median of every figure, or another quantile. */
export function medians(turns: Map<string, Figures[]>, q = 0.5): Record<string, Figures> {
  const over = (rounds: readonly Figures[], figure: string) => rounds.map((round) => round[figure]!);
  const row = (rounds: readonly Figures[]) =>
    Object.fromEntries(Object.keys(rounds[0]!).map((figure) => [figure, quantile(over(rounds, figure), q)]));
  return Object.fromEntries([...turns].map(([name, rounds]) => [name, row(rounds)]));
}

/** The quantiles of `count` samples, each after a pause, so that it finds services with nothing to do. */
export async function samples(count: number, sample: () => Promise<number>) {
  const values: number[] = [];
  for (let i = 0; i < count; i++) {
    await sleep(3);
    values.push(await sample());
  }
  return { p50: median(values), p99: quantile(values, 0.99) };
}

/** The time that `action` takes, in ms. */
export async function timed(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await action();
  return performance.now() - start;
}
