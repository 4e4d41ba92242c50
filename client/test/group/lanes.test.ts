/** The lane of a row: alike here and in SQL, or a member would never read some of its rows. */
import { expect, test } from 'vitest';
import { Lanes } from '../../src/group/lanes.ts';
import { useGroups } from '../testGroup.ts';

const groups = useGroups();
const COUNT = 16;

const any = (list: readonly unknown[]) => list[Math.floor(Math.random() * list.length)];
const text = () =>
  Array.from({ length: Math.random() * 12 }, () =>
    String.fromCodePoint(any([97, 0x7f, 0xe9, 0x2713, 0x1f600, 39, 92, 34]) as number),
  ).join('');
const value = (depth = 0): unknown =>
  any(
    [
      text,
      () => Math.random() * 1e6,
      () => any([true, false, null, '', 0, 1e300, '0', 'length']),
      () => (depth > 2 ? 1 : Array.from({ length: Math.random() * 4 }, () => value(depth + 1))),
      () => (depth > 2 ? 'x' : { a: value(depth + 1), b: { c: value(depth + 1) }, '0': value(depth + 1) }),
    ].map((make) => make()),
  );

test('SQL leaves out no row of a lane, whatever its attributes and the path', async () => {
  await groups.client.query(
    `INSERT INTO signals (signal_name, signal_value, attributes) SELECT 'test', 1, row FROM jsonb_array_elements($1::jsonb) AS row`,
    [JSON.stringify(Array.from({ length: 1_000 }, () => ({ a: value(), b: { c: value() } })))],
  );
  const { rows } = await groups.client.query(
    'SELECT id::int, xid::text, signal_name, attributes FROM signals ORDER BY id',
  );
  const ends = [
    'a',
    'b.c',
    'a.0',
    'a.-1',
    'a.+1',
    'a.00',
    'a. 1',
    'a.length',
    'a.b.c',
    '__proto__',
    'constructor',
    "it's",
    '',
  ];
  for (const order of ['signal_name', 'attributes', ...ends.map((end) => `attributes.${end}`)]) {
    const lanes = new Lanes(COUNT, order);
    for (let lane = 0; lane < COUNT; lane++) {
      const found = await groups.client.query(`SELECT id::int FROM signals WHERE ${lanes.sql(new Set([lane]))}`);
      const ids = new Set(found.rows.map(({ id }) => id));
      const missing = rows.filter((row) => lanes.laneOf(row.id, lanes.keyOf(row)) === lane && !ids.has(row.id));
      expect(missing, `${order} ${lane}`).toEqual([]);
    }
  }
});

test('what every object has is no key', () => {
  const row = { id: 7, xid: '1', attributes: {} };
  for (const name of ['__proto__', 'constructor', 'toString', 'constructor.name']) {
    expect(new Lanes(COUNT, `attributes.${name}`).keyOf(row)).toBeUndefined();
  }
});
