/** Members that are killed, frozen or slow: lanes stay whole, nothing is lost, and no more comes twice than may. */
import { expect, test } from 'vitest';
import { MemberProcess } from '../memberProcess.ts';
import { storedAsHandled, watchLanes } from '../storedLanes.ts';
import { upTo, useGroups } from '../testGroup.ts';

const groups = useGroups();

const unique = (ids: readonly number[]) => [...new Set(ids)].sort((a, b) => a - b);
const repeated = (ids: readonly number[]) => unique(ids.filter((id, at) => ids.indexOf(id) !== at));

test('a transaction that commits late is handled: by a live member, after a handover, after a restart', async () => {
  const group = groups.make();
  const first = group.join();
  await first.lanes(64);
  const open = await Promise.all([groups.connect(), groups.connect(), groups.connect()]);
  for (const client of open) {
    await client.query("BEGIN; INSERT INTO signals (signal_name, signal_value) VALUES ('late', 1)");
  }
  await groups.insert(100);
  await group.until(() => group.runs.length === 100);
  await open[0]!.query('COMMIT');
  await group.until(() => group.runs.length === 101);
  const second = group.join();
  await second.lanes(32);
  await first.stop();
  await second.lanes(64);
  await open[1]!.query('COMMIT');
  await group.until(() => group.runs.length === 102);
  await second.stop();
  await open[2]!.query('COMMIT');
  await groups.insert(10);
  const third = group.join();
  await group.until(() => group.runs.length === 113);
  await third.stop();
  expect(group.ids).toEqual(upTo(113));
});

test.each(['one transaction', 'many'])(
  'a member that is killed in a backlog of %s: others go on, and what comes twice is beyond its last checkpoint',
  async (shape) => {
    const rows = shape === 'many' ? 30_000 : 10_000;
    const watch = watchLanes(await groups.connect());
    const options = { from: 'earliest', checkpointRows: 100 } as const;
    if (shape === 'many') for (let each = 0; each < 200; each++) await groups.insert(rows / 200);
    else await groups.insert(rows);
    const killed = new MemberProcess(groups.url, { options });
    await killed.until(() => killed.runs.length > rows / 3);
    killed.kill('SIGKILL');
    await killed.ended;
    const handled = await storedAsHandled(groups.client);
    expect(handled.size).toBeGreaterThan(rows / 10);
    const group = groups.make(options);
    group.join();
    const all = () => [...killed.ids, ...group.runs.map(({ id }) => id)];
    await group.until(() => new Set(all()).size === rows, 40_000);
    expect(group.runs.filter(({ id }) => handled.has(id))).toEqual([]);
    expect(killed.runs.length - handled.size).toBeLessThanOrEqual(4 * 100);
    await watch.stop();
  },
  60_000,
);

test('of a member that is killed while live, the others take the lanes when its lease is over', async () => {
  const watch = watchLanes(await groups.connect());
  const group = groups.make();
  const member = group.join();
  await member.lanes(64);
  const killed = new MemberProcess(groups.url);
  await Promise.all([killed.lanes(32), member.lanes(32)]);
  await groups.insert(1_000);
  await killed.until(() => killed.runs.length + group.runs.length === 1_000);
  killed.kill('SIGKILL');
  await killed.ended;
  const killedAt = performance.now();
  const handled = await storedAsHandled(groups.client);
  await groups.insert(1_000);
  await member.lanes(64);
  expect(performance.now() - killedAt).toBeLessThan(2_000);
  await group.until(() => new Set([...killed.ids, ...group.ids]).size === 2_000);
  expect(group.runs.filter(({ id }) => killed.ids.includes(id) && handled.has(id))).toEqual([]);
  await watch.stop();
});

test('a member that was frozen past its lease changes nothing, says so once, and joins again', async () => {
  const watch = watchLanes(await groups.connect());
  const group = groups.make();
  const frozen = new MemberProcess(groups.url);
  await frozen.lanes(64);
  await groups.insert(1_000);
  await frozen.until(() => frozen.runs.length === 1_000);
  frozen.kill('SIGSTOP');
  const member = group.join();
  await member.lanes(64);
  await groups.insert(1_000);
  await group.until(() => new Set([...frozen.ids, ...group.ids]).size === 2_000);
  frozen.kill('SIGCONT');
  await Promise.all([frozen.lanes(32), member.lanes(32)]);
  expect(frozen.log.match(/Lost its lanes/g)).toHaveLength(1);
  expect(frozen.runs.length).toBe(1_000); // of what came meanwhile it began nothing
  await groups.insert(1_000);
  await group.until(() => new Set([...frozen.ids, ...group.ids]).size === 3_000);
  await watch.stop();
});

test.each([
  ['a checkpoint', 'SET cursors = CASE', 'after'],
  ['joining', 'INSERT INTO public.signal_group_members', 'before'],
  ['taking lanes', 'UPDATE public.signal_groups SET free', 'before'],
] as const)(
  'frozen in the middle of %s, a member holds up the others no longer than its time limits',
  async (_, at, when) => {
    const watch = watchLanes(await groups.connect());
    const options = { proofTimeoutMs: 1_000 };
    const group = groups.make(options);
    const frozen = new MemberProcess(groups.url, { options, freeze: { at, when } });
    if (when === 'after') await groups.insert(1);
    await frozen.frozen();
    const member = group.join();
    await member.lanes(64);
    await groups.insert(100);
    await group.until(() => unique(group.ids).length >= 100);
    frozen.kill('SIGCONT');
    await Promise.all([frozen.lanes(32), member.lanes(32)]);
    await watch.stop();
  },
  20_000,
);

test('frozen while it gives lanes, a member loses them, and no lane is lost', async () => {
  const watch = watchLanes(await groups.connect());
  const options = { proofTimeoutMs: 1_000 };
  const group = groups.make(options);
  // The first time it takes lanes, the second time it gives some.
  const freeze = { at: 'SET cursors = $3, stored', when: 'before', nth: 2 } as const;
  const frozen = new MemberProcess(groups.url, { options, freeze });
  await frozen.lanes(64);
  const member = group.join();
  await frozen.frozen();
  await groups.insert(100);
  await member.lanes(64);
  await group.until(() => unique(group.ids).length === 100);
  frozen.kill('SIGCONT');
  await Promise.all([frozen.lanes(32), member.lanes(32)]);
  expect(frozen.runs).toEqual([]);
  await watch.stop();
}, 20_000);

test('a batch that is frozen blocks others until its time limit, and commits nothing then', async () => {
  await groups.client.query('CREATE TABLE handled (id bigint)');
  const options = { timeoutMs: 1_500 };
  const frozen = new MemberProcess(groups.url, {
    batch: true,
    options,
    freeze: { at: 'SET cursors = CASE', when: 'before' },
  });
  await frozen.until(() => frozen.log.includes('Lanes taken'));
  await groups.insert(1_000);
  await frozen.frozen();
  const group = groups.make(options);
  const member = group.join(
    {},
    {
      async handleBatch(signals, tx) {
        await tx.query('INSERT INTO handled SELECT unnest($1::bigint[])', [signals.map(({ id }) => id)]);
      },
    },
  );
  await member.lanes(64);
  const handled = async () => (await groups.client.query('SELECT count(*)::int AS rows FROM handled')).rows[0].rows;
  await expect.poll(handled, { timeout: 15_000 }).toBe(1_000);
  frozen.kill('SIGCONT');
  await member.lanes(32);
  await groups.insert(1_000);
  await expect.poll(handled, { timeout: 15_000 }).toBe(2_000);
  const { rows } = await groups.client.query('SELECT count(DISTINCT id)::int AS rows FROM handled');
  expect(rows).toEqual([{ rows: 2_000 }]);
});

test('a row that waits for a renewed lease counts as not handled: killed with it, the next member handles it', async () => {
  const options = { checkpointMs: 200 };
  const killed = new MemberProcess(groups.url, { options, busy: { id: 1, ms: 1_500, killAt: 2 } });
  await killed.lanes(64);
  await groups.insert(2);
  await killed.ended;
  expect(killed.ids).toEqual([1, 2]);
  const group = groups.make();
  group.join();
  await group.until(() => group.ids.includes(2));
});

test('a member that leaves keeps its lease until its handlers are done, and repeats nothing', async () => {
  const watch = watchLanes(await groups.connect());
  const group = groups.make();
  const slow = group.join({}, () => new Promise((resolve) => setTimeout(resolve, 2_500)));
  await slow.lanes(64);
  await groups.insert(1);
  await group.until(() => group.runs.length === 1);
  const other = group.join();
  await other.lanes(32);
  await slow.stop();
  await other.lanes(64);
  await groups.insert(10);
  await group.until(() => group.runs.length === 11);
  expect(group.ids).toEqual(upTo(11));
  await watch.stop();
});

test('members that come and go while signals flow handle each once', async () => {
  const watch = watchLanes(await groups.connect());
  const group = groups.make({ from: 'earliest' });
  let isOver = false;
  let written = 0;
  const writing = (async () => {
    for (; !isOver; written += 20) await groups.insert(20);
  })();
  const members = [group.join(), group.join()];
  await members[0]!.lanes(32);
  for (let round = 0; round < 6; round++) {
    members.push(group.join(), group.join());
    await expect
      .poll(() => members.reduce((sum, { group: each }) => sum + each.laneCount, 0), { timeout: 15_000 })
      .toBe(64);
    await Promise.all(members.splice(0, 2).map((member) => member.stop()));
  }
  isOver = true;
  await writing;
  await Promise.all(members.map((member) => member.lanes(32)));
  await group.until(() => group.runs.length >= written);
  await Promise.all(members.map((member) => member.stop()));
  expect(repeated(group.ids)).toEqual([]);
  expect(group.ids).toEqual(upTo(written));
  await watch.stop();
}, 60_000);
