/** `npm run groups`, as a process. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { asRole, createTestDatabase, type TestDatabase } from '@pg-signals/local/testing';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lanesTo, StoredGroups } from '../../client/test/group/storedGroups.ts';
import { readOptions, UsageError } from '../src/groups/options.ts';
import { lagText, ranges, table } from '../src/groups/tables.ts';

const MAIN = fileURLToPath(new URL('../src/groups/main.ts', import.meta.url));
const HAS_SCRIPT = process.platform === 'linux' && spawnSync('script', ['--version']).status === 0;

let database: TestDatabase;
let stored: StoredGroups;
const children: ChildProcess[] = [];
beforeEach(async () => {
  database = await createTestDatabase();
  stored = await StoredGroups.connect(database.url);
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
  await stored.end();
  await database.drop();
});

interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

async function groups(args: string[], { url = database.url } = {}): Promise<Run> {
  return run(process.execPath, [MAIN, ...args], url).done;
}

/** On a terminal, where `script` shows both outputs as one; each `answer` is what is typed when something is asked. */
async function onTerminal(args: string[], answer: string): Promise<Pick<Run, 'code' | 'stdout'>> {
  const quoted = [process.execPath, MAIN, ...args].map((arg) => `'${arg}'`).join(' ');
  const { child, output, done } = run('script', ['-qefc', quoted, '/dev/null'], database.url);
  const asked = () => {
    if (!output.stdout.includes('[y/N] ')) return;
    child.stdout!.off('data', asked);
    child.stdin!.write(answer);
  };
  child.stdout!.on('data', asked);
  return done;
}

function run(program: string, args: string[], url: string) {
  const env = { PATH: process.env.PATH, DATABASE_URL: url };
  const child = spawn(program, args, { cwd: '/', env, stdio: 'pipe' });
  children.push(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk) => (output.stdout += chunk));
  child.stderr.on('data', (chunk) => (output.stderr += chunk));
  const done = once(child, 'close').then(([code]) => ({ code: code as number | null, ...output }));
  return { child, output, done };
}

/** A group with two members, of which one is gone, and a slot; 3 signals in lanes that no one has read. */
async function store(): Promise<number[]> {
  const at = await stored.snapshot();
  const takenAt = Date.now() - 3_600_000;
  const lanes = lanesTo(16);
  await stored.group({
    name: 'billing',
    lanes: 16,
    order: 'signal_name',
    free: [{ lanes: lanes.slice(8), at, takenAt }],
  });
  const of = (first: number, end: number) => [{ lanes: lanes.slice(first, end), at, takenAt }];
  await stored.member({ group: 'billing', name: 'host-1', epoch: 1, cursors: of(0, 6), inFlight: 2 });
  await stored.member({ group: 'billing', name: 'host-2', epoch: 2, cursors: of(6, 8), lease: -5 });
  await stored.group({ name: 'consumer-1', lanes: 1, slot: true, free: [{ lanes: [0], at, takenAt }] });
  const ids = await stored.signals(3);
  await stored.retry('billing', ids[0]!, { key: 's', lane: 1 });
  await stored.deadLetter('billing', ids[1]!);
  await stored.deadLetter('billing', ids[2]!);
  return ids;
}

test('without groups it says so', async () => {
  expect(await groups([])).toEqual({ code: 0, stdout: 'no groups yet\n', stderr: '' });
  expect(await groups(['--json'])).toEqual({ code: 0, stdout: '[]\n', stderr: '' });
});

test('groups are listed in a table', async () => {
  await store();
  const { code, stdout, stderr } = await groups([]);
  expect([code, stderr]).toEqual([0, '']);
  const [heading, billing, slot, ...more] = stdout
    .trimEnd()
    .split('\n')
    .map((line) => line.split(/ {2,}/));
  expect(heading).toEqual([
    'group',
    'order',
    'lanes',
    'members',
    'lag',
    'behind',
    'in flight',
    'retries',
    'dead letters',
  ]);
  const behind = expect.stringMatching(/^36\d\d s$/);
  expect(billing).toEqual(['billing', 'signal_name', '16', '1 + 1 expired', '3', behind, '2', '1', '2']);
  expect(slot).toEqual(['consumer-1 (slot)', '-', '1', '0', '3', behind, '0', '0', '0']);
  expect(more).toEqual([]);
});

test('for programs, the fields of a group keep their names', async () => {
  await store();
  const { code, stdout } = await groups(['--json']);
  const member = { lease_until: expect.stringMatching(/\+00:00$/), joined_at: expect.stringMatching(/\+00:00$/) };
  const billing = {
    name: 'billing',
    slot: false,
    feed: 'public.signals',
    order: 'signal_name',
    lanes: 16,
    members: [
      { name: 'host-1', epoch: 1, alive: true, ...member, lanes: 6, in_flight: 2 },
      { name: 'host-2', epoch: 2, alive: false, ...member, lanes: 2, in_flight: 0 },
    ],
    lag_rows: 3,
    lag_at_least: false,
    lag_seconds: expect.any(Number),
    in_flight: 2,
    retries: 1,
    dead_letters: 2,
  };
  expect([code, JSON.parse(stdout)]).toEqual([
    0,
    [billing, expect.objectContaining({ name: 'consumer-1', slot: true })],
  ]);
});

test('show has the lanes with their owners, what is tried again, and dead letters', async () => {
  const ids = await store();
  await stored.client.query(
    String.raw`UPDATE dead_letters SET last_error = E'bad\n\x1b[31mthing' WHERE signal_id = $1`,
    [ids[1]],
  );
  const { code, stdout } = await groups(['show', 'billing', '--limit', '1']);
  expect(code).toBe(0);
  const lines = stdout.split('\n').map((line) => line.trim().split(/ {2,}/));
  const lanes = lines.filter(
    ([first]) => /^[\d,-]+$/.test(first!) && first !== String(ids[0]) && first !== String(ids[1]),
  );
  const owners = lanes.map(([numbers, owner, epoch, lease]) => [numbers, owner, epoch, lease!.replace(/\d+\.\d/, 'N')]);
  // The lane with the three signals stands apart.
  expect(owners).toEqual(
    expect.arrayContaining([
      [expect.stringMatching(/^0-/), 'host-1', '1', 'N s left'],
      [expect.stringMatching(/^6/), 'host-2', '2', 'expired N s ago'],
      [expect.stringMatching(/^8/), '-', '-', '-'],
    ]),
  );
  expect(owners).toHaveLength(4);
  expect(lanes.map(([, , , , lag]) => Number(lag)).sort()).toEqual([0, 0, 0, 3]);
  expect(lines).toContainEqual([String(ids[0]), '1', 's', '1', expect.any(String), '-']);
  expect(stdout).toContain('dead letters, 1 of 2:\n');
  expect(lines).toContainEqual([
    String(ids[1]),
    '6',
    expect.any(String),
    'bad [31mthing',
    expect.stringMatching(/^\{"id":/),
  ]);

  const json = JSON.parse((await groups(['show', 'billing', '--json'])).stdout);
  expect(json).toMatchObject({
    group: { name: 'billing', lag_rows: 3 },
    retries: [{ signal_id: ids[0], attempts: 1 }],
  });
  expect(json.lanes[7]).toMatchObject({ lane: 7, owner: 'host-2', epoch: 2, alive: false });
  expect(json.lanes[8]).toMatchObject({ lane: 8, owner: null, epoch: null, lease_until: null, alive: null });
  expect(json.dead_letters.map((letter: { signal: object }) => letter.signal)).toMatchObject([
    { id: ids[1] },
    { id: ids[2] },
  ]);
});

test('retry gives dead letters back, and is code 1 where one can not be', async () => {
  const ids = await store();
  await stored.client.query('DELETE FROM signals WHERE id = $1', [ids[1]]);
  expect(await groups(['retry', 'billing', String(ids[1]), String(ids[2]), '777'])).toEqual({
    code: 1,
    stdout: '1 dead letter of billing is tried again\n',
    stderr: `signal ${ids[1]}: its row has been deleted, so it stays a dead letter\nsignal 777 is no dead letter of billing\n`,
  });
  const { code, stdout } = await groups(['retry', 'billing', '--json']);
  expect([code, JSON.parse(stdout)]).toEqual([1, { retried: [], deleted: [ids[1]], missing: [] }]);
  await groups(['drop-dead', 'billing', '--yes']);
  expect((await groups(['retry', 'billing'])).code).toBe(0);
});

test('drop-dead, reset and delete do their work for scripts', async () => {
  const ids = await store();
  expect(await groups(['drop-dead', 'billing', String(ids[1]), '--yes', '--json'])).toMatchObject({ code: 0 });
  expect(await groups(['drop-dead', 'billing', '--yes'])).toMatchObject({
    stdout: 'deleted 1 dead letter of billing\n',
  });
  expect(await groups(['delete', 'billing', '--yes'])).toEqual({
    code: 1,
    stdout: '',
    stderr: 'the group billing has members that are alive: host-1. Stop them first\n',
  });
  expect(await groups(['reset', 'billing', '--to', '2026-04-02T16:23:17+02:00', '--yes'])).toMatchObject({
    code: 0,
    stdout: 'billing begins again at 2026-04-02T16:23:17+02:00: 1 retry deleted, 2 members to join again\n',
  });
  const { stdout } = await groups(['reset', 'billing', '--to', 'earliest', '--yes', '--json']);
  expect(JSON.parse(stdout)).toEqual({ at: '3:3:', retries: 0, members: 0 });
  expect(await groups(['delete', 'billing', '--yes'])).toMatchObject({
    code: 0,
    stdout: 'deleted billing, with 0 retries and 0 dead letters\n',
  });
  expect(await groups(['show', 'billing'])).toEqual({
    code: 1,
    stdout: '',
    stderr: 'no group billing: there are consumer-1\n',
  });
});

test.skipIf(!HAS_SCRIPT)('what can not be undone is asked first, and anything but yes changes nothing', async () => {
  await store();
  const commands = [
    [['drop-dead', 'billing'], 'Delete 2 dead letters of billing?'],
    [
      ['reset', 'billing', '--to', 'latest'],
      'Its present place is lost, and 1 retry. Let billing begin again at latest?',
    ],
    [['delete', 'consumer-1'], 'Delete consumer-1, its place, 0 retries and 0 dead letters?'],
  ] as const;
  for (const [args, question] of commands) {
    for (const answer of ['\r', 'no\r', '\u0003', '\u0004']) {
      const { code, stdout } = await onTerminal([...args], answer);
      expect([code, stdout]).toEqual([1, expect.stringContaining(question)]);
      expect(stdout).toContain('nothing was changed');
    }
  }
  expect(JSON.parse((await groups(['--json'])).stdout)).toMatchObject([
    { name: 'billing', retries: 1, dead_letters: 2, lag_rows: 3 },
    { name: 'consumer-1' },
  ]);
  for (const [args] of commands) expect((await onTerminal([...args], 'y\r')).code).toBe(0);
  expect(JSON.parse((await groups(['--json'])).stdout)).toMatchObject([
    { name: 'billing', dead_letters: 0, lag_rows: 0 },
  ]);
});

test('without a terminal and without --yes nothing is changed, with code 2', async () => {
  await store();
  for (const args of [
    ['drop-dead', 'billing'],
    ['reset', 'billing', '--to', 'latest'],
    ['delete', 'consumer-1'],
  ]) {
    const { code, stderr } = await groups(args);
    expect([code, stderr]).toEqual([
      2,
      expect.stringMatching(/^\S+ can't be undone: expected --yes where there is no terminal/),
    ]);
  }
  expect(JSON.parse((await groups(['--json'])).stdout)).toMatchObject([{ retries: 1, dead_letters: 2 }, {}]);
});

test('help is printed, and wrong usage is code 2', async () => {
  expect(await groups(['--help'])).toMatchObject({
    code: 0,
    stdout: expect.stringContaining('npm run groups -- show NAME'),
  });
  expect(await groups(['shwo'])).toMatchObject({
    code: 2,
    stdout: '',
    stderr: expect.stringMatching(
      /^expected list, show, retry, drop-dead, reset or delete, got shwo\n\nShows consumer groups/,
    ),
  });
  expect(readOptions(['reset', 'g', '--to', '2026-04-02 16:23:17.5+02'])?.command).toMatchObject({
    to: new Date('2026-04-02T14:23:17.5Z'),
  });
  expect(readOptions(['show', '--', '-odd'])?.command).toMatchObject({ group: '-odd' });
  const wrong = [
    ['show'],
    ['show', 'a', 'b'],
    ['show', 'a', '--limit', '-1'],
    ['list', 'a'],
    ['--limit', '3'],
    ['retry', 'a', '1.5'],
    ['retry', 'a', '99999999999999999'],
    ['reset', 'a'],
    ['reset', 'a', '--to', 'yesterday'],
    ['reset', 'a', '--to', '2026-04-02T16:23:17'],
    ['delete', 'a', '--to', 'latest'],
    ['--force'],
  ];
  for (const args of wrong) expect(() => readOptions(args), args.join(' ')).toThrow(UsageError);
});

test('an error says what to do about it', async () => {
  await store();
  const consumer = await groups([], { url: asRole(database.url, 'signals_consumer') });
  expect(consumer).toMatchObject({
    code: 1,
    stderr:
      'failed: permission denied for table dead_letters: run it as the owner of the tables, or GRANT SELECT ON TABLE public.dead_letters\n',
  });
  const retry = await groups(['retry', 'billing'], { url: asRole(database.url, 'signals_consumer') });
  expect(retry.stderr).toContain('or GRANT SELECT, UPDATE, DELETE ON TABLE public.dead_letters\n');
  const odd = `o'r";--`;
  expect(await groups(['show', odd])).toMatchObject({
    code: 1,
    stderr: `no group ${odd}: there are billing, consumer-1\n`,
  });
  expect(await groups(['retry', odd, '1'])).toMatchObject({
    code: 1,
    stderr: `no group ${odd}: there are billing, consumer-1\n`,
  });
  const readOnly = new URL(database.url);
  readOnly.searchParams.set('options', '-c default_transaction_read_only=on');
  expect((await groups(['retry', 'billing'], { url: readOnly.href })).stderr).toMatch(
    /^failed: cannot execute .* in a read-only transaction: connect to the primary, as a user who may write\n$/,
  );
  const empty = await createTestDatabase({ migrated: false });
  const unmigrated = await groups([], { url: empty.url });
  await empty.drop();
  expect(unmigrated).toMatchObject({
    code: 1,
    stderr: 'failed: relation "public.signal_groups" does not exist: run npm run migrate\n',
  });
  expect(await groups([], { url: 'nonsense' })).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^DATABASE_URL: /),
  });
});

test('a table aligns numbers on the right, and lanes are shown as ranges', () => {
  expect(
    table([
      ['name', 'rows'],
      ['a', 5],
      ['bcdef', 1_000],
    ]),
  ).toBe('name   rows\na         5\nbcdef  1000\n');
  expect(ranges([0, 1, 2, 5, 7, 8])).toBe('0-2,5,7-8');
  expect(lagText({ lag_rows: 1_000_001, lag_at_least: true })).toBe('>1000000');
  expect(lagText({ lag_rows: 0, lag_at_least: true })).toBe('?');
  expect(lagText({ lag_rows: null, lag_at_least: null })).toBe('?');
});
