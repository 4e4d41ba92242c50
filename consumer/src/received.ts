/** What a received signal does: a line in the log. The signals wait where no one reads that. */
import type { Logger } from '@pg-signals/runtime';
import type { HandlerContext, Signal } from 'pg-signals';

/** Called with each signal; in a group also with what is known of this run. */
export type ConsumerCallback = (signal: Signal, context?: HandlerContext) => unknown;

/** Returns a promise while the log has no room: until it has. */
export const logSignal =
  (logger: Logger) =>
  (
    { id, timestamp, signal_name, signal_value, attributes }: Signal,
    { attempt }: Pick<HandlerContext, 'attempt'> = FIRST_RUN,
  ): Promise<void> | undefined => {
    // One object: winston takes it as it is, while it searches and copies a message with fields.
    const line = { level: 'info', message: 'notification received', id, timestamp, signal_name, signal_value };
    const whole = isEmpty(attributes) ? line : { ...line, attributes };
    logger.log(attempt > 1 ? { ...whole, attempt } : whole);
    return logger.lines.room();
  };

const FIRST_RUN = { attempt: 1 };

function isEmpty(object: object): boolean {
  for (const _ in object) return false;
  return true;
}
