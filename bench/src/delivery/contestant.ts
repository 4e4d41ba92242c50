/**
 * A consumer that counts, as a process of its own: `node contestant.ts <way>`, forked.
 *
 * It says `ready` when it listens. Told a number it says so again, and gives its figures once it has so many signals.
 */
import { createRequire } from 'node:module';
import { createPool } from '@pg-signals/db';
import pg from 'pg';
import { Listener, type Source } from 'pg-signals';
import postgres from 'postgres';

/** Its types say `export default`; what it exports is the function itself. */
const createSubscriber = createRequire(import.meta.url)('pg-listen') as typeof import('pg-listen').default;

/** The libraries that listen, and what reads the same rows from the table. */
export type Way = 'pg-signals' | 'pg' | 'pg-listen' | 'postgres' | 'SELECT';

export interface Figures {
  /** From the first signal to the last. */
  readonly seconds: number;
  /** From the last attempt to connect, or from the sending of the SELECT, to the last signal. */
  readonly secondsInAll: number;
  /** Of the whole process, its collector and compiler included, from the order to the last signal. */
  readonly cpuSeconds: number;
  /** Signals by the way they came, where the library tells. */
  readonly sources: Record<Source, number>;
}

export type Message = 'ready' | Figures;

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
  say({
    seconds: (lastAt - firstAt) / 1_000,
    secondsInAll: (lastAt - beganAt) / 1_000,
    cpuSeconds: (user + system) / 1e6,
    sources,
  });
}

function say(message: Message): void {
  process.send!(message);
}

let select = () => {};
process.on('message', (order: number | 'select') => {
  if (order === 'select') return select();
  count = 0;
  expected = order;
  sources = { notify: 0, catch_up: 0 };
  cpuBefore = process.cpuUsage();
  say('ready');
});
process.on('disconnect', () => process.exit());

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
    select = async () => {
      beganAt = performance.now();
      const columns = 'id, "timestamp", signal_name, signal_value, attributes';
      const { rows } = await client.query(`SELECT ${columns} FROM signals ORDER BY xid, id`);
      for (const row of rows) counted(row);
    };
  },
};

await ways[process.argv[2] as Way]();
say('ready');
