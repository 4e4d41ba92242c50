/**
 * A consumer that counts, as a process of its own: `node contestant.ts <way>`. It sends `ready` when it listens. Sent a
 * number, it answers `ready` again, and sends its figures when it has received that many signals.
 */
import { createRequire } from 'node:module';
import { createPool } from '@pg-signals/db';
import pg from 'pg';
import { Listener, type Source } from 'pg-signals';
import postgres from 'postgres';

/** Its types say `export default`; what it exports is the function itself. */
const createSubscriber = createRequire(import.meta.url)('pg-listen') as typeof import('pg-listen').default;

/** The libraries that listen; `SELECT` reads the same rows from the table as soon as it has its order. */
export type Way = 'pg-signals' | 'pg' | 'pg-listen' | 'postgres' | 'SELECT';

export interface Counted {
  /** From the first signal to the last. */
  seconds: number;
  /** From the last attempt to connect, or from sending the SELECT, to the last signal. */
  secondsInAll: number;
  /** Of the whole process, its collector and compiler included, from the order to the last signal. */
  cpuSeconds: number;
  /** Signals by the way they came; only pg-signals reports it. */
  sources: Record<Source, number>;
}

const url = process.env.DATABASE_URL!;
let count = 0;
let expected = 0;
let beganAt = 0;
let firstAt = 0;
let cpuBefore = process.cpuUsage();
let sources = { notify: 0, catch_up: 0 };

function counted(_signal: unknown): void {
  if (count++ === 0) firstAt = performance.now();
  if (count === expected) setImmediate(report, performance.now()); // what the library does after the last one counts too
}

function report(lastAt: number): void {
  const { user, system } = process.cpuUsage(cpuBefore);
  const [seconds, secondsInAll] = [(lastAt - firstAt) / 1_000, (lastAt - beganAt) / 1_000];
  process.send!({ seconds, secondsInAll, cpuSeconds: (user + system) / 1e6, sources } satisfies Counted);
}

let read = () => {};
process.on('message', (order: number) => {
  count = 0;
  expected = order;
  sources = { notify: 0, catch_up: 0 };
  cpuBefore = process.cpuUsage();
  process.send!('ready');
  read();
});

const ways: Record<Way, () => Promise<void>> = {
  async 'pg-signals'() {
    const pool = createPool({ connectionString: url, application_name: 'pg-signals' });
    const proved = Promise.withResolvers<void>();
    const observer = {
      connecting() {
        beganAt = performance.now();
      },
      listening: (now: boolean) => now && proved.resolve(),
      delivered(source: Source, rows: number) {
        sources[source] += rows;
      },
    };
    void new Listener(pool, { observer }, counted).start(new AbortController().signal);
    await proved.promise;
  },
  async pg() {
    const client = new pg.Client({ connectionString: url });
    client.on('notification', ({ payload }) => counted(JSON.parse(payload!)));
    await client.connect();
    await client.query('LISTEN new_signals');
  },
  async 'pg-listen'() {
    const subscriber = createSubscriber({ connectionString: url });
    subscriber.notifications.on('new_signals', counted);
    await subscriber.connect();
    await subscriber.listenTo('new_signals');
  },
  async postgres() {
    await postgres(url).listen('new_signals', (payload) => counted(JSON.parse(payload)));
  },
  async SELECT() {
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    read = async () => {
      beganAt = performance.now();
      const columns = 'id, "timestamp", signal_name, signal_value, attributes';
      const { rows } = await client.query(`SELECT ${columns} FROM signals ORDER BY xid, id`);
      for (const row of rows) counted(row);
    };
  },
};

await ways[process.argv[2] as Way]();
process.send!('ready');
