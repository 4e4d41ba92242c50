/** Producers as processes of their own, for tests of how they end. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { afterEach } from 'vitest';
import type { TestTable } from '../../client/test/publish/testTable.ts';
import { Condition } from '../../client/test/testListener.ts';

const MAIN = fileURLToPath(new URL('../src/main.ts', import.meta.url));

export interface ProducerProcess {
  child: ChildProcess;
  log(): string;
  /** Resolves when the process has logged a message so many times: its log is all that it shows of its workers. */
  logged(message: string, times?: number): Promise<void>;
  /** Resolves with its exit code; null after a signal. */
  exited: Promise<number | null>;
}

export interface ProducerProcesses {
  /** Starts a process on the test file's database; it leads a group of its own. */
  run(environment: Record<string, string>): ProducerProcess;
  /** The same on a free port, when it listens. */
  listening(environment?: Record<string, string>): Promise<ProducerProcess & { url: string }>;
}

/** Those that still run after a test are killed. */
export function useProcesses(table: TestTable): ProducerProcesses {
  const children: ChildProcess[] = [];
  afterEach(async () => {
    for (const child of children.splice(0)) {
      if (child.exitCode !== null || child.signalCode !== null) continue;
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });

  function run(environment: Record<string, string>): ProducerProcess {
    const child = spawn(process.execPath, [MAIN], {
      env: { PATH: process.env.PATH, DATABASE_URL: table.databaseUrl, ...environment },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      detached: true,
    });
    children.push(child);
    let log = '';
    const condition = new Condition();
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.on('data', (chunk) => {
        log += chunk;
        condition.changed();
      });
    }
    return {
      child,
      log: () => log,
      logged: (message, times = 1) => condition.until(() => log.split(message).length > times),
      exited: once(child, 'exit').then(([code]) => code as number | null),
    };
  }

  async function listening(environment: Record<string, string> = {}) {
    const started = run({ PORT: '0', ...environment });
    const [{ url }] = (await once(started.child, 'message')) as [{ url: string }];
    return { ...started, url };
  }

  return { run, listening };
}
