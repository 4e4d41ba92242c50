/** `make run` as a new user sees it: started, used, stopped and broken in an installed copy of the project. */
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  existsSync,
  lchownSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Signal } from '@pg-signals/db';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { freePort } from '../src/freePort.ts';
import { createTestDatabase } from '../src/testing.ts';
import { type CommandOptions, MakeRun } from './command.ts';
import { readableByOther, userNamed } from './otherUser.ts';
import { copyFiles, copyProject, listeningPorts, processesIn } from './projectCopy.ts';
import { runReadmePrograms } from './readmePrograms.ts';

// Each test starts up to three times three processes and a database; only one that hangs takes so long.
vi.setConfig({ testTimeout: 60_000 });

const onLinux = process.platform === 'linux';
const isRoot = process.getuid?.() === 0;
if (!onLinux) console.log('skipped: the tests of make run, which find left processes in /proc (Linux)');
else if (!isRoot) console.log('skipped: make run as root and as another user, since only root can try both');

const folders: string[] = [];
let directory: string;

beforeAll(() => {
  if (!onLinux) return;
  directory = path.join(newFolder(0o755), 'project');
  copyProject(directory);
});

afterAll(() => {
  for (const left of onLinux ? processesIn(directory) : []) process.kill(Number.parseInt(left, 10), 'SIGKILL');
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function newFolder(mode: number): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'pg-signals-run-'));
  folders.push(folder);
  chmodSync(folder, mode);
  return folder;
}

/** Starts `make run`, the producer on a free port; it ends with the test. */
function makeRun(options: Partial<CommandOptions> = {}): MakeRun {
  const run = new MakeRun({ directory, ...options, variables: { PORT: '0', ...options.variables } });
  onTestFinished(async () => {
    if (run.child.exitCode === null && run.child.signalCode === null) process.kill(-run.child.pid!, 'SIGTERM');
    await run.ended;
  });
  return run;
}

async function postSignal(url: string): Promise<Signal> {
  const response = await fetch(`${url}/ingest`, { method: 'POST' });
  expect(response.status).toBe(200);
  return (await response.json()) as Signal;
}

async function expectSignalIn(run: MakeRun, consumers: number, { id, signal_value }: Signal): Promise<void> {
  for (let n = 1; n <= consumers; n++) {
    await run.shows(
      new RegExp(`^consumer-${n} \\| .* notification received id=${id} .* signal_value=${signal_value}$`, 'm'),
    );
  }
}

/** True where a server answers there. */
async function accepts(host: string, port: number): Promise<boolean> {
  const socket = connect(port, host);
  try {
    await once(socket, 'connect');
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: 'ECONNREFUSED' });
    return false;
  } finally {
    socket.destroy();
  }
}

/** Waits until no process works in the project's folder or in the folder of its data, which may be outside. */
async function expectNothingLeft(project = directory): Promise<void> {
  const data = path.join(project, '.data/postgres');
  await expect.poll(() => processesIn(project, ...(existsSync(data) ? [data] : [])), { timeout: 20_000 }).toEqual([]);
}

describe('in a clone in which nothing is installed', () => {
  const clone = path.join(newFolder(0o755), 'clone');
  // Without the programs of this checkout, which npx puts first.
  const system = process.env.PATH!.split(':').filter((folder) => !folder.includes('node_modules'));
  const run = (command: string, ...args: string[]) =>
    spawnSync(command, args, { cwd: clone, encoding: 'utf8', env: { PATH: system.join(':'), HOME: clone } });
  beforeAll(() => copyFiles(clone));

  test.each(['migrate', 'send', 'bench'])('npm run %s says what to type', (script) => {
    const { status, stderr } = run('npm', 'run', script);
    expect(status).toBe(1);
    expect(stderr).toMatch(/Nothing is installed here yet\. Type npm ci, with Node 20 or newer \(this is \d+/);
  });

  test('make says that npm is missing, and from where it comes', () => {
    const tools = newFolder(0o755);
    for (const tool of ['make', 'sh'])
      symlinkSync(execFileSync('which', [tool], { encoding: 'utf8' }).trim(), path.join(tools, tool));
    const { status, stderr } = spawnSync('make', ['run'], { cwd: clone, encoding: 'utf8', env: { PATH: tools } });
    expect(status).toBe(2);
    expect(stderr).toContain('npm is missing: install Node 20 or newer, from https://nodejs.org');
  });
});

describe.skipIf(!onLinux)('make run', () => {
  test('starts on a fresh copy, shows a signal in both consumers, stops with code 0 and leaves no process', async () => {
    const run = makeRun();
    const signal = await postSignal(await run.ready());
    expect(signal.id).toBe(1);
    await expectSignalIn(run, 2, signal);
    expect(run.output).toMatch(
      new RegExp(`^producer {3}\\| .* Inserting data into database .* signal_value=${signal.signal_value}$`, 'm'),
    );
    expect(run.output).not.toContain('\u001b['); // no colours outside a terminal
    process.kill(run.runner, 'SIGINT');
    expect(await run.ended).toBe(0);
    expect(() => run.databaseUrl()).toThrow('No database runs here: start one with make run');
    await expectNothingLeft();
  });

  test('keeps the data, starts CONSUMERS consumers, and Ctrl-C stops producer, consumers, database in order', async () => {
    const run = makeRun({ variables: { CONSUMERS: '5' } });
    const signal = await postSignal(await run.ready());
    expect(signal.id).toBe(2);
    await expectSignalIn(run, 5, signal);
    run.pressCtrlC();
    expect(await run.ended).toBe('SIGINT'); // make itself, which waits for the runner and then ends by the same signal
    const ends = run.output.split('\n').filter((line) => /Stopp(ing|ed)/.test(line));
    expect(ends.map((line) => line.split(' ')[0])).toEqual([
      'Stopping;',
      ...Array(2).fill('producer'),
      ...Array(10).fill(expect.stringMatching(/^consumer-\d$/)),
      'Stopped',
    ]);
    await expectNothingLeft();
  });

  test('stops with code 0 and leaves no process when Ctrl-C comes while it starts', async () => {
    const run = makeRun();
    await run.shows(/^PostgreSQL runs on/m);
    process.kill(run.runner, 'SIGINT');
    expect(await run.ended).toBe(0);
    expect(run.output).not.toContain('Ready');
    await expectNothingLeft();
  });

  test('reports that another one uses the same data, and leaves that one alone', async () => {
    const first = makeRun();
    const url = await first.ready();
    const second = makeRun();
    expect(await second.ended).toBe(2); // make's own code where a command of it failed
    expect(second.output).toContain('Another make run uses this project: stop that one first.');
    expect(second.output).toContain('Error 1');
    await expectSignalIn(first, 2, await postSignal(url));
  });

  test('two that start at the same moment in two copies both start', async () => {
    const copies = ['one', 'other'].map((name) => path.join(newFolder(0o755), name));
    for (const copy of copies) copyProject(copy);
    // Free until the second server of the two is started.
    const POSTGRES_PORT = String(await freePort());
    const runs = copies.map((copy) => makeRun({ directory: copy, variables: { POSTGRES_PORT } }));
    const signals = await Promise.all(runs.map(async (run) => postSignal(await run.ready())));
    await Promise.all(runs.map((run, index) => expectSignalIn(run, 2, signals[index]!)));
    expect(signals.map(({ id }) => id)).toEqual([1, 1]); // each in a database of its own
    const ports = runs.map((run) => /^PostgreSQL runs on 127\.0\.0\.1:(\d+)(.*), its/m.exec(run.output)!);
    expect(ports.map(([, port, taken]) => (port === POSTGRES_PORT ? 'as set' : taken)).sort()).toEqual([
      ` (${POSTGRES_PORT} is taken)`,
      'as set',
    ]);
    for (const run of runs) process.kill(run.runner, 'SIGINT');
    expect(await Promise.all(runs.map((run) => run.ended))).toEqual([0, 0]);
    for (const copy of copies) await expectNothingLeft(copy);
  });

  test('reports that the port is taken and which variable changes it, and ends with code 1', async () => {
    const other = createServer().listen(0);
    onTestFinished(() => void other.close());
    await once(other, 'listening');
    const { port } = other.address() as { port: number };
    const run = makeRun({ variables: { PORT: String(port) } });
    await run.ended;
    expect(run.output).toContain(
      `Port ${port} is taken by another program: stop that one, or set PORT to a free port.`,
    );
    expect(run.output).toContain('Error 1');
    await expectNothingLeft();
  });

  test('listens on the loopback interface alone, unless HOST says otherwise', async () => {
    const run = makeRun();
    await run.ready();
    // A server on every interface answers here too; one on 127.0.0.1 does not.
    const elsewhere = () => Promise.all(listeningPorts(directory).map((port) => accepts('127.0.0.2', port)));
    expect(await elsewhere()).toEqual([false, false, false, false]); // producer, two consumers, PostgreSQL
    process.kill(run.runner, 'SIGTERM');
    await run.ended;

    const open = makeRun({ variables: { HOST: '0.0.0.0' } });
    await expectSignalIn(open, 2, await postSignal(await open.ready()));
    expect((await elsewhere()).sort()).toEqual([false, true, true, true]);
  });

  test("README's programs work by README's commands, also where the database's port is taken", async () => {
    const other = createServer().listen(0, '127.0.0.1');
    onTestFinished(() => void other.close());
    await once(other, 'listening');
    const { port } = other.address() as { port: number };
    const run = makeRun({ variables: { POSTGRES_PORT: String(port) } });
    await run.ready();
    expect(run.output).toMatch(new RegExp(`^PostgreSQL runs on 127\\.0\\.0\\.1:\\d+ \\(${port} is taken\\), `, 'm'));
    expect(await runReadmePrograms(directory)).toBe('temperature 21.5');
  });

  test('make ingest takes address and token from .env, as make run does', async () => {
    const env = path.join(directory, '.env');
    const port = await freePort();
    writeFileSync(env, `PORT='${port}'\nHOST=127.0.0.2\nINGEST_TOKEN=a-token-for-tests\n`);
    onTestFinished(() => rmSync(env));
    const run = makeRun({ variables: { PORT: undefined } });
    expect(await run.ready()).toBe(`http://127.0.0.2:${port}`);
    const answer = execFileSync('make', ['-s', 'ingest'], { cwd: directory, encoding: 'utf8' });
    await expectSignalIn(run, 2, JSON.parse(answer));
  });

  test('names every wrong setting before it starts anything', async () => {
    const run = makeRun({
      variables: { CONSUMERS: 'two', PORT: '80800', POSTGRES_PORT: 'x', LOG_FORMAT: 'xml' },
    });
    await run.ended;
    expect(run.output).toContain('CONSUMERS: expected a whole number from 1 to 1000, got "two"');
    expect(run.output).toMatch(/^PORT: .*, got "80800"$/m);
    expect(run.output).toMatch(/^POSTGRES_PORT: .*, got "x"$/m);
    expect(run.output.match(/^LOG_FORMAT: .*, got "xml"$/gm)).toHaveLength(1);
    expect(run.output).not.toContain('PostgreSQL');
  });

  test('uses the server at DATABASE_URL instead of starting one', async () => {
    const database = await createTestDatabase({ migrated: false });
    const run = makeRun({ variables: { DATABASE_URL: database.url } });
    await expectSignalIn(run, 2, await postSignal(await run.ready()));
    expect(run.output).toMatch(/^applied 0001_signals$/m);
    expect(processesIn(directory).filter((process) => process.includes('/postgres '))).toEqual([]);
    process.kill(run.runner, 'SIGTERM');
    expect(await run.ended).toBe(0);
    await database.drop();
  });

  test('its consumers go on where those of the run before stood, unless CONSUMER_SLOT is empty', async () => {
    const database = await createTestDatabase();
    const variables = { DATABASE_URL: database.url };
    const first = makeRun({ variables });
    await expectSignalIn(first, 2, await postSignal(await first.ready()));
    process.kill(first.runner, 'SIGTERM');
    expect(await first.ended).toBe(0);

    const client = new pg.Client(database.url);
    await client.connect();
    onTestFinished(async () => {
      await client.end();
      await database.drop();
    });
    const { rows } = await client.query<Signal>(
      `INSERT INTO signals (signal_name, signal_value) VALUES ('meanwhile', 2) RETURNING id::int, signal_value`,
    );
    const forgetful = makeRun({ variables: { ...variables, CONSUMER_SLOT: '' } });
    await expectSignalIn(forgetful, 2, await postSignal(await forgetful.ready()));
    expect(forgetful.output).not.toContain('received id=2 ');
    process.kill(forgetful.runner, 'SIGTERM');
    expect(await forgetful.ended).toBe(0);

    const second = makeRun({ variables });
    await second.ready();
    await expectSignalIn(second, 2, rows[0]!);
    expect(second.output).not.toContain('received id=1 ');
    process.kill(second.runner, 'SIGTERM');
    expect(await second.ended).toBe(0);
  });

  test('passes JSON logs through unchanged', async () => {
    const run = makeRun({ variables: { LOG_FORMAT: 'json' } });
    const { id } = await postSignal(await run.ready());
    const [, line] = await run.shows(/^consumer-1 \| (.*"notification received".*)$/m);
    expect(JSON.parse(line!)).toMatchObject({ level: 'info', message: 'notification received', id });
  });

  test('stops everything with code 1 when a consumer is killed', async () => {
    const run = makeRun();
    await run.ready();
    const consumer = processesIn(directory).find((process) => process.includes('consumer/src/main.ts'))!;
    process.kill(Number.parseInt(consumer, 10), 'SIGKILL');
    await run.ended;
    expect(run.output).toMatch(/^consumer-\d ended by itself \(SIGKILL\): stopping everything$/m);
    expect(run.output).toMatch(/^producer {3}\| .* Stopped$/m);
    expect(run.output).toContain('Error 1');
    await expectNothingLeft();
  });

  test('ends everything at once on a second Ctrl-C, even while a request is open', async () => {
    // Without the second Ctrl-C it would wait far longer than the test.
    const run = makeRun({ variables: { SHUTDOWN_TIMEOUT_MS: '600000' } });
    const { port } = new URL(await run.ready());
    const client = connect(Number(port), '127.0.0.1').on('error', () => {});
    onTestFinished(() => void client.destroy());
    client.write(
      'POST /ingest HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{',
    );
    await once(client, 'connect');
    await fetch(`http://127.0.0.1:${port}/healthz`); // answered later, so the producer has begun the other request
    run.pressCtrlC();
    await run.shows(/^producer {3}\| .* Stopping/m);
    run.pressCtrlC();
    await run.ended;
    await expectNothingLeft();
  });

  test('stops in order when the reader of its output is gone', async () => {
    const run = makeRun();
    const url = await run.ready();
    run.child.stdout!.destroy();
    await postSignal(url); // makes it write the next line
    expect(await run.ended).toBe(0);
    await expectNothingLeft();
  });

  test('leaves no process behind when it is killed itself, and the next one starts on the same data', async () => {
    const run = makeRun({ variables: { LOG_LEVEL: 'error' } }); // ready without a log line of the services
    const { id } = await postSignal(await run.ready());
    process.kill(run.runner, 'SIGKILL');
    await run.ended;
    await expectNothingLeft();
    const next = makeRun();
    expect((await postSignal(await next.ready())).id).toBe(id + 1);
  });
});

describe.skipIf(!onLinux || !isRoot)('make run, as another user and in a closed folder', () => {
  test("works as root in a folder that the server's user can't enter", async () => {
    rmSync(path.join(directory, '.data'), { recursive: true });
    const project = path.join(newFolder(0o700), 'project');
    renameSync(directory, project);
    directory = project;
    for (const expected of [1, 2]) {
      const run = makeRun();
      const signal = await postSignal(await run.ready());
      expect(signal.id).toBe(expected);
      await expectSignalIn(run, 2, signal);
      process.kill(run.runner, 'SIGINT');
      expect(await run.ended).toBe(0);
      await expectNothingLeft();
    }
    const data = path.join(directory, '.data/postgres');
    folders.push(realpathSync(data));
    // The programs are in the closed folder too.
    expect(readdirSync(data)).toContainEqual(expect.stringMatching(/^native-/));
    rmSync(data);
  });

  test('works as an ordinary user, and root afterwards leaves the data with that user', async () => {
    // Not nobody, whom root would choose anyway.
    const user = userNamed('daemon');
    const project = path.join(newFolder(0o755), 'project');
    renameSync(directory, project);
    directory = project;
    rmSync(path.join(directory, '.data'), { recursive: true });
    giveTo(user, directory);
    for (const who of [{ user }, {}, { user }]) {
      const run = makeRun(who);
      const signal = await postSignal(await run.ready());
      await expectSignalIn(run, 2, signal);
      process.kill(run.runner, 'SIGINT');
      expect(await run.ended).toBe(0);
      await expectNothingLeft();
      expect(statSync(path.join(directory, '.data/postgres/data')).uid).toBe(user.uid);
    }
  });

  test('lets no other user of the machine into the database or the files of the one that runs it', async () => {
    const user = userNamed('daemon');
    const secret = path.join(directory, 'private');
    writeFileSync(secret, 'the diary\n', { mode: 0o600 });
    giveTo(user, directory);
    const run = makeRun({ user });
    await run.ready();
    const [, port] = await run.shows(/^PostgreSQL runs on .*127\.0\.0\.1:(\d+)/m);
    const pgModule = path.join(directory, 'node_modules/pg/lib/index.js');
    const loot = execFileSync(process.execPath, ['--input-type=module', '--eval', ATTACK, pgModule, port!, secret], {
      cwd: '/',
      encoding: 'utf8',
      ...userNamed('games'),
    });
    expect(JSON.parse(loot)).toEqual([]);
    expect(readableByOther(path.join(directory, '.data/postgres'))).toEqual([]);

    // Whoever gets the services' password can do no more than use their tables.
    const client = new pg.Client({ connectionString: run.databaseUrl() });
    await client.connect();
    onTestFinished(() => client.end());
    await client.query('CREATE TEMPORARY TABLE loot (line text)');
    await expect(client.query(`COPY loot FROM PROGRAM 'cat ${secret}'`)).rejects.toMatchObject({ code: '42501' });
    await expect(client.query(`SELECT pg_read_file('${secret}')`)).rejects.toMatchObject({ code: '42501' });
    const { rows } = await client.query(
      'SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles WHERE rolname = current_user',
    );
    expect(rows).toEqual([{ rolsuper: false, rolcreaterole: false, rolcreatedb: false, rolreplication: false }]);
  });
});

/** What another user of the machine tries: the passwords of examples, and a program that reads a private file. */
const ATTACK = `
  const [pgModule, port, file] = process.argv.slice(1);
  const { default: pg } = await import(pgModule);
  const loot = [];
  for (const password of ['signals', 'postgres', '']) {
    for (const user of ['signals', 'postgres', 'signals_producer', 'signals_consumer']) {
      const client = new pg.Client({ host: '127.0.0.1', port, user, password, database: 'signals' });
      client.on('error', () => {});
      try {
        await client.connect();
        loot.push(user);
        await client.query('CREATE TEMPORARY TABLE loot (line text)');
        await client.query("COPY loot FROM PROGRAM 'cat " + file + "'");
        loot.push((await client.query('SELECT line FROM loot')).rows[0].line);
      } catch (error) {
        if (!/password/.test(error.message)) loot.push(error.message);
      }
      client.end();
    }
  }
  console.log(JSON.stringify(loot));`;

/** Changes the owner of everything but node_modules, whose files are links to the original's. */
function giveTo({ uid, gid }: { uid: number; gid: number }, folder: string): void {
  lchownSync(folder, uid, gid);
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.name === 'node_modules') continue;
    const at = path.join(folder, entry.name);
    if (entry.isDirectory()) giveTo({ uid, gid }, at);
    else lchownSync(at, uid, gid);
  }
}
