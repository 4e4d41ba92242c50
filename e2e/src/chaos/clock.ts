/** One clock for every process of a run: CLOCK_MONOTONIC, which is the same in all processes of a machine. */

/** Milliseconds, with a fraction; only differences mean anything. */
export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
