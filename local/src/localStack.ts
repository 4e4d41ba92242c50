/** PostgreSQL, a producer and consumers as processes of this machine: started together, stopped in order. */
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { styleText } from 'node:util';
import { messageOf } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import { listen, localUrl } from '@pg-signals/runtime';
import { DataInUseError, type EmbeddedPostgres, PortInUseError, startEmbeddedPostgres } from './embedded.ts';
import { prepareOwner } from './owner.ts';
import type { RunSettings } from './runSettings.ts';
import { type ServiceProcess, startService } from './serviceProcess.ts';

/** A fast shutdown writes everything out, which may take a while; after this timeout an immediate one ends it. */
const POSTGRES_STOP_MS = 30_000;
/** A service ends by itself after SHUTDOWN_TIMEOUT_MS, with code 1; this much later it is killed. */
const GRACE_MS = 1_000;

export interface LocalStackOptions {
  /** The folder of the project. */
  root: string;
  settings: RunSettings;
  /** Called with the output of all, in whole lines. */
  write: (lines: string) => void;
  /** Called when a process ended unasked; the others run on until `stop`. */
  onLost: (reason: string) => void;
}

export class LocalStack {
  readonly #options: LocalStackOptions;
  #postgres: EmbeddedPostgres | undefined;
  readonly #services: ServiceProcess[] = [];
  #stopping = false;
  #stoppedInOrder = true;

  constructor(options: LocalStackOptions) {
    this.#options = options;
  }

  /**
   * Resolves with the producer's URL when every service is ready. After a rejection the caller must still call `stop`.
   *
   * @throws {Error} whose message is for the person at the terminal; an AbortError when `signal` aborts.
   */
  async start(signal: AbortSignal): Promise<string> {
    const { settings, write } = this.#options;
    const url = settings.databaseUrl ?? (await this.#startPostgres());
    signal.throwIfAborted();
    // The producer would report it too, but its line would be lost among the consumers' logs.
    await checkPort(settings.port, settings.host);
    const applied = await migrate(url).catch((cause) => {
      throw new Error(`The database could not be migrated: ${messageOf(cause)}`, { cause });
    });
    for (const name of applied) write(`applied ${name}\n`);
    signal.throwIfAborted();

    const names = ['producer', ...Array.from({ length: settings.consumers }, (_, index) => `consumer-${index + 1}`)];
    const width = Math.max(...names.map((name) => name.length));
    for (const [index, name] of names.entries()) {
      this.#watch(
        startService({
          name,
          main: path.join(this.#options.root, index === 0 ? 'producer' : 'consumer', 'src/main.ts'),
          directory: this.#options.root,
          // Each consumer takes a free port itself: one that is found here may be taken when the consumer opens it.
          port: index === 0 ? settings.port : 0,
          host: settings.host,
          // All on one host: each has health and metrics on its own port.
          environment: { ...process.env, DATABASE_URL: url, HEALTH_PORT: '', CONSUMER_SLOT: settings.consumerSlot },
          prefix: colour(index, `${name.padEnd(width)} | `),
          write,
        }),
      );
    }
    const [producerUrl] = await Promise.all(this.#services.map((service) => service.ready(signal)));
    return localUrl(settings.host, new URL(producerUrl!).port);
  }

  /** Stops the producer, then the consumers, then PostgreSQL; resolves with true where each stopped in order. */
  async stop(): Promise<boolean> {
    this.#stopping = true;
    const timeoutMs = this.#options.settings.shutdownTimeoutMs + GRACE_MS;
    const [producer, ...consumers] = this.#services;
    await producer?.stop(timeoutMs);
    await Promise.all(consumers.map((consumer) => consumer.stop(timeoutMs)));
    const late = sleep(POSTGRES_STOP_MS, undefined, { ref: false }).then(() => this.#postgres?.stop('immediate'));
    await Promise.race([this.#postgres?.stop(), late]);
    return this.#stoppedInOrder;
  }

  /** Kills everything at once. */
  async kill(): Promise<void> {
    this.#stopping = true;
    for (const service of this.#services) service.kill();
    await this.#postgres?.stop('immediate');
  }

  async #startPostgres(): Promise<string> {
    const { root, settings, write } = this.#options;
    const directory = path.join(root, '.data/postgres');
    // 100 is PostgreSQL's own default; 20 more leave room for psql.
    const max_connections = String(Math.max(100, settings.connections + 20));
    const options = { directory, settings: { max_connections } };
    let taken = '';
    const postgres = await startEmbeddedPostgres({ ...options, port: settings.postgresPort }).catch((error) => {
      if (error instanceof PortInUseError) {
        taken = ` (${settings.postgresPort} is taken)`;
        return startEmbeddedPostgres(options);
      }
      if (!(error instanceof DataInUseError)) throw error;
      throw new Error(`Another make run uses this project: stop that one first. ${error.message}`, { cause: error });
    });
    this.#postgres = postgres;
    write(
      `PostgreSQL runs on 127.0.0.1:${postgres.port}${taken}, its data in ${path.relative(root, directory)}; make url prints its address\n`,
    );
    postgres.exited.then((code) =>
      this.#ended('PostgreSQL', code === null ? 'a signal' : `code ${code}`, postgres.log()),
    );
    return prepareOwner(postgres.url, path.join(directory, 'url'));
  }

  #watch(service: ServiceProcess): void {
    this.#services.push(service);
    service.ended.then((how) => this.#ended(service.name, how));
  }

  #ended(name: string, how: string, log = ''): void {
    if (!this.#stopping) this.#options.onLost(`${log}${log && '\n'}${name} ended by itself (${how})`);
    // SIGTERM ends a service that is still loading: it has nothing to finish yet.
    else if (how !== 'code 0' && how !== 'SIGTERM') {
      this.#stoppedInOrder = false;
      this.#options.write(`${name} did not stop as it should (${how})\n`);
    }
  }
}

/** @throws {PortTakenError} or {NoSuchHostError} where the producer can't listen there. */
async function checkPort(port: number, host: string): Promise<void> {
  const probe = await listen(() => {}, port, { host });
  await probe.stop();
}

/** Colours a prefix where standard output is a terminal with colours and NO_COLOR is not set. */
function colour(index: number, prefix: string): string {
  const colours = ['cyan', 'yellow', 'green', 'magenta', 'blue'] as const;
  return styleText(colours[index % colours.length]!, prefix, { stream: process.stdout });
}
