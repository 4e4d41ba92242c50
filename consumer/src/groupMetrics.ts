/** What a member of a group does, as Prometheus metrics. */
import type { Group, GroupObserver } from 'pg-signals';
import { Counter, Gauge, type Registry } from 'prom-client';
import type { ReadLag } from './groupLag.ts';

export function createGroupMetrics(
  registry: Registry,
  group: string,
  member: () => Group,
  readLag: ReadLag,
): Partial<GroupObserver> {
  const common = { labelNames: ['group'], registers: [registry] };
  const handled = new Counter({
    ...common,
    name: 'signals_group_handled_total',
    help: 'Signals that were handled here, or kept for another run.',
  });
  const retries = new Counter({
    ...common,
    name: 'signals_group_retries_total',
    help: 'Runs of signals that had failed.',
  });
  const deadLetters = new Counter({
    ...common,
    name: 'signals_group_dead_letters_total',
    help: 'Signals given up here after their last attempt.',
  });
  const lanes: Gauge = new Gauge({
    ...common,
    name: 'signals_group_lanes',
    help: 'Lanes that this member owns.',
    collect: () => lanes.set({ group }, member().laneCount),
  });
  createLagMetrics(registry, () => group, member, readLag);
  for (const counter of [handled, retries, deadLetters]) counter.inc({ group }, 0);
  return {
    handled: (rows) => handled.inc({ group }, rows),
    retried: () => retries.inc({ group }),
    deadLetter: () => deadLetters.inc({ group }),
  };
}

/** How far it is behind, for a slot too: `group` is its name then, empty before it holds one. */
export function createLagMetrics(
  registry: Registry,
  group: () => string,
  member: () => { readonly inFlight: number },
  readLag: ReadLag,
): void {
  const gauge = (name: string, help: string, read: () => number | undefined | Promise<number | undefined>) =>
    new Gauge({
      name,
      help,
      labelNames: ['group'],
      registers: [registry],
      async collect() {
        const value = await read();
        this.reset(); // a slot's name changes
        if (value !== undefined) this.set({ group: group() }, value);
      },
    });
  gauge(
    'signals_group_in_flight',
    'Signals that are being handled here, or wait for their turn.',
    () => member().inFlight,
  );
  gauge(
    'signals_group_lag_rows',
    "Committed signals of this member's lanes that are not handled; past 100,000 signals of all lanes, at least so many.",
    async () => (await readLag())?.lag_rows,
  );
  gauge(
    'signals_group_lag_seconds',
    'Everything committed longer ago is handled here, but for signals that are tried again; 0 without lag.',
    async () => (await readLag())?.lag_seconds,
  );
}
