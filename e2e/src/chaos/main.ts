/**
 * The checker, `make chaos`: breaks connections, servers and processes on purpose and checks that every committed
 * signal was delivered exactly once, and handled by each group as its rules say. It ends with code 1 when ours broke a rule.
 *
 * SEED replays the decisions of a run; SECONDS (60) is how long it writes; CONSUMERS (3) is how many of ours run; GROUPS=1
 * or 0 says whether members of groups run, too (by default from 30 s on: their last retries take 10 s); RIVALS=1 or 0 says
 * whether the same faults hit other clients too (by default from 60 s on); CHAOS_VERBOSE=1 prints each fault and every log
 * line of ours as it happens; SPOIL makes a group worse in one of the ways of groups/spoiled.ts, and the run fails.
 */
import { randomInt } from 'node:crypto';
import { spoilsBy } from './groups/spoiled.ts';
import { cohort, report } from './report.ts';
import { run } from './run.ts';

/** Time to start, drain and compare, beyond the time of writing. */
const SLACK_S = 180;

const seed = process.env.SEED || String(randomInt(2 ** 32));
const seconds = wholeNumber('SECONDS', 60, 5);
const consumers = wholeNumber('CONSUMERS', 3, 1);
const groups = wholeNumber('GROUPS', seconds >= 30 ? 1 : 0, 0) > 0;
const rivals = wholeNumber('RIVALS', seconds >= 60 ? 1 : 0, 0) > 0;
const verbose = wholeNumber('CHAOS_VERBOSE', 0, 0) > 0;
const replay = `SEED=${seed} SECONDS=${seconds} CONSUMERS=${consumers} make chaos`;

class BrokenOff extends Error {}

const interrupted = Promise.withResolvers<never>();
interrupted.promise.catch(() => {});
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => interrupted.reject(new BrokenOff(`broken off by ${signal}`)));
}
process.on('uncaughtException', (error) => interrupted.reject(error));
setTimeout(
  () => interrupted.reject(new BrokenOff(`it hangs: ${SLACK_S} s past its time`)),
  (seconds + SLACK_S) * 1_000,
).unref();

console.log(`chaos: ${seconds} s, ${consumers} of ours${rivals ? ' and the rivals' : ''}; to replay: ${replay}`);
try {
  const outcome = await run(
    {
      seed,
      seconds,
      consumers,
      rivals,
      groups,
      spoils: process.env.SPOIL ? spoilsBy(process.env.SPOIL) : undefined,
      onFault: (atMs, fault) => {
        if (!verbose) return;
        const length = ((fault.to - fault.from) / 1_000).toFixed(3);
        const terminated = fault.terminated === undefined ? '' : `, ${fault.terminated} terminated`;
        console.log(
          `+${(atMs / 1_000).toFixed(3)} s  ${fault.kind}, cohort ${cohort(fault)}, ${length} s${terminated}`,
        );
      },
      onLog: (name, line) => verbose && console.log(`${name}: ${line}`),
    },
    interrupted.promise,
  );
  const { text, passed } = report(outcome, seconds);
  console.log(text);
  console.log(passed ? '\nPASSED' : `\nFAILED; to replay: ${replay}`);
  process.exit(passed ? 0 : 1);
} catch (error) {
  const { message, stack } = error as Error;
  console.error(`\nNo verdict: ${error instanceof BrokenOff ? message : stack}\nto replay: ${replay}`);
  process.exit(1);
}

function wholeNumber(name: string, byDefault: number, least: number): number {
  const value = Number(process.env[name] || byDefault);
  if (Number.isInteger(value) && value >= least) return value;
  console.error(`${name}: expected a whole number of at least ${least}, got ${JSON.stringify(process.env[name])}`);
  process.exit(1);
}
