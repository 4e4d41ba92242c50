/** What the tests of groups share: members whose runs and log can be waited for, and a database to write to. */
import { createPool, type Signal } from '@pg-signals/db';
import { createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import pg from 'pg';
import { afterEach, beforeEach, expect, onTestFailed } from 'vitest';
import { type BatchHandler, Group, type GroupOptions, type Handler } from '../src/index.ts';

/** A call of the handler. */
export interface Run {
  id: number;
  lane: number;
  epoch: number;
  attempt: number;
  /** 1 for the member that joined first. */
  member: number;
}

export type AnyHandler = Handler<Signal> | { handleBatch: BatchHandler<Signal> };

export interface JoinOptions extends Partial<GroupOptions> {
  /** Where this member connects to, instead of the group's address. */
  url?: string;
  /** Connections of its pool. */
  max?: number;
}

export interface TestMember {
  readonly group: Group;
  readonly pool: pg.Pool;
  /** Ends with the member; rejects where it ends by itself. */
  readonly done: Promise<void>;
  /** Resolves when it owns so many lanes. */
  lanes(count: number): Promise<void>;
  /** Resolves when it has left. */
  stop(): Promise<void>;
}

export class TestGroup {
  readonly runs: Run[] = [];
  /** Lines of all members: number, level, message, fields as JSON. */
  log = '';
  readonly #url: string;
  readonly #defaults: JoinOptions;
  readonly #members: TestMember[] = [];

  constructor(url: string, defaults: JoinOptions = {}) {
    this.#url = url;
    this.#defaults = defaults;
    onTestFailed(
      () => void process.stdout.write(`${this.runs.length} runs, the end of the log:\n${this.log.slice(-6_000)}`),
    );
  }

  /** Starts a member; does not wait until it has lanes. */
  join(given: JoinOptions = {}, handler?: AnyHandler): TestMember {
    const { url = this.#url, max = 5, ...options } = { ...this.#defaults, ...given };
    const pool = createPool({ connectionString: url, application_name: 'member', max });
    const number = this.#members.length + 1;
    const write = (level: string) => (message: string, fields?: object) => {
      this.log += `${number} ${level} ${message} ${JSON.stringify(fields ?? {})}\n`;
    };
    const logger = { info: write('info'), warn: write('warn'), error: write('error') };
    const each: Handler<Signal> = (signal, context) => {
      const { lane, epoch, attempt } = context;
      this.runs.push({ id: signal.id, lane, epoch, attempt, member: number });
      return typeof handler === 'function' ? handler(signal, context) : undefined;
    };
    const group = new Group(
      pool,
      { name: 'workers', logger, checkpointMs: 100, leaseMs: 1_000, ...options },
      typeof handler === 'object' ? handler : each,
    );
    const abort = new AbortController();
    const done = group.start(abort.signal).finally(() => pool.end());
    done.catch(() => {}); // for whoever waits for it
    const member: TestMember = {
      group,
      pool,
      done,
      lanes: (count) => this.until(() => group.laneCount === count),
      stop: () => {
        abort.abort();
        return done;
      },
    };
    this.#members.push(member);
    return member;
  }

  /** Ends all members that still run. */
  async stop(): Promise<void> {
    await Promise.allSettled(this.#members.map((member) => member.stop()));
  }

  until(holds: () => boolean, timeout = 15_000): Promise<void> {
    return expect.poll(holds, { timeout, interval: 10 }).toBe(true);
  }

  /** Of all runs. */
  get ids(): number[] {
    return this.runs.map(({ id }) => id).sort((a, b) => a - b);
  }

  /** How many lines of the log hold this text. */
  lines(text: string): number {
    return this.log.split(text).length - 1;
  }
}

export interface TestGroups {
  /** The database of the test. */
  url: string;
  /** Writes and looks at what is stored. */
  client: pg.Client;
  /** Another connection, which ends with the test. */
  connect(): Promise<pg.Client>;
  /** A group whose members end with the test. */
  make(defaults?: JoinOptions): TestGroup;
  /** Inserts so many signals in one statement. */
  insert(count: number): Promise<unknown>;
}

/** Gives each test of a file a database, and groups that end with the test. */
export function useGroups(): TestGroups {
  let database: TestDatabase;
  const groups: TestGroup[] = [];
  const others: pg.Client[] = [];
  const used: TestGroups = {
    url: '',
    client: undefined as never,
    async connect() {
      const client = new pg.Client(used.url);
      client.on('error', () => {});
      await client.connect();
      others.push(client);
      return client;
    },
    make(defaults) {
      const group = new TestGroup(used.url, defaults);
      groups.push(group);
      return group;
    },
    insert: (count) =>
      used.client.query(
        `INSERT INTO signals (signal_name, signal_value) SELECT 'test', n FROM generate_series(1, $1::int) AS n`,
        [count],
      ),
  };
  beforeEach(async () => {
    database = await createTestDatabase();
    used.url = database.url;
    used.client = new pg.Client(database.url);
    await used.client.connect();
  });
  afterEach(async () => {
    await Promise.all(groups.splice(0).map((group) => group.stop()));
    await Promise.all([used.client, ...others.splice(0)].map((client) => client.end()));
    await database.drop();
  });
  return used;
}

export const upTo = (count: number, from = 1): number[] => Array.from({ length: count }, (_, at) => from + at);
