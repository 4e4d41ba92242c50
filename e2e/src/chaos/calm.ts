/** The times of a run without a fault: only there does a delay measure the consumer and not the fault. */

/** A stretch of time, in ms on the clock of `now()`. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** How long a consumer has after a fault to notice it, reconnect and catch up, in ms. */
export const SETTLE_MS = 3_000;
/** A row counts where it had at least this long until the next fault, in ms. */
export const LEAD_MS = 1_000;

/** The calm within `whole`: from 3 s after each fault to 1 s before the next. */
export function calmSpans(whole: Span, faults: readonly Span[]): Span[] {
  const spans: Span[] = [];
  let from = whole.from;
  for (const fault of [...faults].sort((a, b) => a.from - b.from)) {
    if (fault.from - LEAD_MS > from) spans.push({ from, to: fault.from - LEAD_MS });
    from = Math.max(from, fault.to + SETTLE_MS);
  }
  if (whole.to > from) spans.push({ from, to: whole.to });
  return spans;
}
