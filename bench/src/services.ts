/** Starts our services as `make run` does, and peers. */
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { freePort } from '@pg-signals/local/free-port';
import { NODE_FLAGS } from '@pg-signals/runtime';
import { Program, type ProgramOptions, retry, run } from './process.ts';

export type Service = Program & { readonly url: string };

export const ROOT = path.resolve(import.meta.dirname, '../..');

/** Starts a program that serves HTTP, on a free port. Resolves when `/readyz` answers anything but a server error. */
export async function startServer(
  command: readonly string[],
  databaseUrl: string,
  options: ProgramOptions = {},
): Promise<Service> {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const env = { DATABASE_URL: databaseUrl, PORT: `${port}`, ADDR: `127.0.0.1:${port}`, ...options.env };
  const program = new Program(command, { ...options, env });
  await retry(
    async () => {
      const response = await fetch(`${url}/readyz`, { headers: { connection: 'close' } });
      await response.arrayBuffer();
      if (response.status >= 500) throw new Error(`${url} answers ${response.status}`);
    },
    AbortSignal.any([program.ended, AbortSignal.timeout(20_000)]),
  );
  return Object.assign(program, { url });
}

const compileCache = mkdtempSync(path.join(tmpdir(), 'pg-signals-bench-'));
process.once('exit', () => rmSync(compileCache, { recursive: true, force: true }));
const compiled = new Set<string>();

/** Starts one of our services; `main` is its path in the project. The first start only fills the compile cache. */
export async function startService(main: string, databaseUrl: string, options: ProgramOptions = {}): Promise<Service> {
  const env = { NODE_COMPILE_CACHE: compileCache, ...options.env };
  const start = () =>
    startServer([process.execPath, ...NODE_FLAGS, path.join(ROOT, main)], databaseUrl, { ...options, env });
  if (!compiled.has(main)) await (await start()).stop();
  compiled.add(main);
  return start();
}

/** The path of what the script built. Undefined, with a line that says why, if there is no script or it fails. */
export async function buildPeer(name: 'go-original' | 'slow-flush'): Promise<string | undefined> {
  const build = path.join(ROOT, '../shared/peers', name, 'build');
  if (!existsSync(build)) {
    console.error(`Skipped ${name}: ../shared/peers/${name}/build does not exist`);
    return undefined;
  }
  try {
    return (await run([build])).trim();
  } catch (error) {
    console.error(`Skipped ${name}: ${(error as Error).message.trim()}`);
    return undefined;
  }
}
