/** What a writer does: one transaction after another, each drawn from the seed before it begins. */
import type { Random } from './random.ts';

/** A row to be written. Its name comes again in later transactions of the same writer, and of no other. */
export interface Row {
  readonly timestamp: string;
  readonly name: string;
  readonly value: number;
  readonly attributes: string;
}

export type Statement =
  /** One INSERT of all rows. */
  | { readonly kind: 'insert'; readonly rows: readonly Row[] }
  /** One COPY FROM STDIN of all rows. */
  | { readonly kind: 'copy'; readonly rows: readonly Row[] }
  | { readonly kind: 'sql'; readonly text: string };

/** Keeps the transaction open for `ms`. */
type Hold = { readonly kind: 'hold'; readonly ms: number };

/** One transaction. */
export type Transaction =
  /** Its statement returns the `xid` of its rows. */
  | { readonly end: 'autocommit'; readonly statement: Statement }
  | { readonly end: 'commit' | 'rollback'; readonly steps: readonly (Statement | Hold)[] };

export interface Plan {
  readonly kind: string;
  readonly transaction: Transaction;
  /** How long the writer waits afterwards. */
  readonly pauseMs: number;
}

type Draw = (random: Random, name: string) => Transaction;

const sql = (text: string): Statement => ({ kind: 'sql', text });
const hold = (ms: number): Hold => ({ kind: 'hold', ms });

/** How often each kind comes, out of the sum of the weights, and how it is drawn. */
const KINDS: Record<string, { weight: number; draw: Draw }> = {
  'single row': {
    weight: 30,
    draw: (random, name) => ({ end: 'autocommit', statement: insert(random, name, 1) }),
  },
  batch: {
    weight: 20,
    draw: (random, name) => ({ end: 'autocommit', statement: insert(random, name, batchSize(random)) }),
  },
  transaction: {
    weight: 12,
    draw: (random, name) => ({
      steps: several(random, name, random.int(2, 5)).flatMap((step) => [step, hold(random.int(0, 80))]),
      end: 'commit',
    }),
  },
  // It gets its transaction id and its first rows early, and commits after many that began later.
  'long transaction': {
    weight: 6,
    draw: (random, name) => ({
      steps: [insert(random, `${name}.a`, 2), hold(random.int(100, 5_000)), insert(random, `${name}.b`, 2)],
      end: 'commit',
    }),
  },
  'rolled back': {
    weight: 8,
    draw: (random, name) => ({
      steps: [insert(random, name, random.int(1, 50)), hold(random.int(0, 300))],
      end: 'rollback',
    }),
  },
  savepoints: {
    weight: 8,
    draw: (random, name) => ({
      steps: [
        insert(random, `${name}.kept`, 2),
        sql('SAVEPOINT outer_one'),
        insert(random, `${name}.outer`, 3),
        sql('SAVEPOINT inner_one'),
        insert(random, `${name}.inner`, 2),
        sql(random.chance(0.5) ? 'ROLLBACK TO inner_one' : 'RELEASE inner_one'),
        sql(random.chance(0.5) ? 'ROLLBACK TO outer_one' : 'RELEASE outer_one'),
        insert(random, `${name}.last`, 1),
      ],
      end: 'commit',
    }),
  },
  // Every turn of the loop is a subtransaction; past 64 of them their ids no longer fit into shared memory.
  subtransactions: { weight: 4, draw: (random, name) => ({ steps: [loop(name, random.int(5, 100))], end: 'commit' }) },
  copy: {
    weight: 5,
    draw: (random, name) => ({ steps: [{ kind: 'copy', rows: rows(random, name, batchSize(random)) }], end: 'commit' }),
  },
  'insert … select': {
    weight: 5,
    draw: (random, name) => ({ end: 'autocommit', statement: sql(insertSelect(name, random.int(1, 100))) }),
  },
};

const DECK = Object.entries(KINDS).flatMap(([kind, { weight }]) => Array<string>(weight).fill(kind));

/** Draws the next transaction; the names of its rows begin with `name`. */
export function decidePlan(random: Random, name: string): Plan {
  const kind = random.pick(DECK);
  const transaction = KINDS[kind]!.draw(random, name);
  return { kind, transaction, pauseMs: random.chance(0.1) ? random.int(200, 800) : random.int(0, 120) };
}

/** `count` rows, made by the server itself, each with attributes of `size` characters. */
export function insertSelect(name: string, count: number, size = 0): string {
  return `
    INSERT INTO public.signals (signal_name, signal_value, attributes)
    SELECT '${name}.' || n, n / 7.0, jsonb_build_object('long', repeat('x', ${size}))
    FROM generate_series(1, ${count}) AS n
    RETURNING xid::text`;
}

function insert(random: Random, name: string, count: number): Statement {
  return { kind: 'insert', rows: rows(random, name, count) };
}

function several(random: Random, name: string, statements: number): Statement[] {
  return Array.from({ length: statements }, (_, i) => insert(random, `${name}.${i}`, random.int(1, 10)));
}

function loop(name: string, turns: number): Statement {
  return sql(`
    DO $$ BEGIN
      FOR n IN 1..${turns} LOOP
        BEGIN
          INSERT INTO public.signals (signal_name, signal_value) VALUES ('${name}.' || n, n);
          IF n % 3 = 0 THEN RAISE EXCEPTION 'every third row is rolled back'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
      END LOOP;
    END $$`);
}

/** 1 to 500, mostly few. */
function batchSize(random: Random): number {
  return random.int(1, random.pick([5, 5, 20, 20, 100, 500]));
}

/** Offsets before the time zones of today had seconds, and PostgreSQL writes them where the session has such a zone. */
const TIMESTAMPS = [
  '2026-03-29T01:30:00.5Z',
  '1850-02-03T04:05:06.123456Z',
  '0001-01-01T00:00:00Z',
  '9999-12-31T23:59:59.999999Z',
];

function rows(random: Random, name: string, count: number): Row[] {
  return Array.from({ length: count }, (_, i) => ({
    timestamp: random.pick(TIMESTAMPS),
    name: `${name}.${i}`,
    value: random.pick([0, -1, i, random.next() * 1e6, 0.1 + 0.2, -1.5e-300, 1.7e308]),
    attributes: JSON.stringify(attributes(random)),
  }));
}

function attributes(random: Random): Record<string, unknown> {
  if (random.chance(0.02)) return { long: 'é'.repeat(random.int(4_000, 12_000)) }; // 8 to 24 kB: notified as truncated
  if (random.chance(0.02)) return { edge: 'x'.repeat(random.int(7_700, 7_950)) }; // on both sides of the limit of 8,000
  return random.chance(0.3) ? { n: random.int(0, 1e6), text: 'a "quoted" \\ word', list: [1, null, true] } : {};
}
