/** What each contestant is to the bench: tables, a writer, and members that share what was written. */

export interface Contestant {
  /** Makes its tables in an empty database. */
  prepare(url: string): Promise<unknown>;
  connectWriter(url: string): Promise<Writer>;
  /** Handles what waits and what comes. Resolves when it works, with how to stop: then what was handled is acknowledged. */
  work(url: string, handle: (value: number) => void): Promise<() => Promise<unknown>>;
}

export interface Writer {
  /** Commits one signal for each value, in one transaction, in the contestant's own way. */
  add(values: readonly number[]): Promise<unknown>;
  close(): Promise<unknown>;
}

/** The file of each; a member imports its own alone. */
const FILES = {
  broadcast: './broadcast.ts',
  'pg-signals': './ours.ts',
  'pg-boss': './pgBoss.ts',
  'graphile-worker': './graphileWorker.ts',
  bullmq: './bullmq.ts',
  'DELETE 100': './loop.ts',
  'DELETE 1,000': './loop.ts',
} as const;

export type Name = keyof typeof FILES;

/** Those that share the work. */
export const SHARING: readonly Name[] = [
  'pg-signals',
  'pg-boss',
  'graphile-worker',
  'bullmq',
  'DELETE 100',
  'DELETE 1,000',
];

/** The name of the queue, where there is a choice. */
export const QUEUE = 'signals';

export async function contestant(name: Name): Promise<Contestant> {
  return (await import(FILES[name])).create(name);
}
