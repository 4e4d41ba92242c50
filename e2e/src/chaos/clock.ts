/** One clock for every process of a run: CLOCK_MONOTONIC, which all processes of a machine read alike. */

/** Milliseconds, with a fraction; only differences mean anything. */
export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
