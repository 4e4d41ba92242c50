/** What went wrong, for a log or an error that has this one as its cause. */

/** The error of a host with several addresses holds one error for each of them, and has no message of its own. */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError) return error.errors.map(messageOf).join('; ');
  return (error as Error).message || String(error);
}
