/** Runs a service as a process: settings, start, signals, ordered stop, exit code. */
import { setTimeout as sleep } from 'node:timers/promises';
import { createLogger, type Logger } from './logger.ts';
import { SettingsError } from './settingsError.ts';

/** A started service. */
export interface Service {
  /** Where its HTTP server answers. */
  readonly url: string;
  /** Rejects when it can't go on, and would not after another start either, with an error for the person who started it. */
  readonly done?: Promise<unknown>;
  /** Accepts no more work, finishes what is in flight, closes everything. Calling it twice does no harm. */
  stop(): Promise<void>;
}

interface ServiceSettings {
  LOG_LEVEL: string;
  LOG_FORMAT: 'text' | 'json';
  SHUTDOWN_TIMEOUT_MS: number;
  SHUTDOWN_DRAIN_MS?: number;
}

export interface RunOptions {
  /**
   * The process has a parent and an IPC channel to it. It stops on SIGTERM, or when the parent has ended. It ignores
   * SIGINT, since Ctrl-C in a terminal reaches the parent too, and a second SIGTERM: one to the whole process group comes
   * again from the parent.
   */
  child?: boolean;
}

/**
 * Runs a service until SIGTERM or SIGINT. A parent that opened an IPC channel gets one message when the service has started,
 * `{ url }`: with `PORT=0` only the service knows its port, and the log that names it may be off.
 *
 * Sets the exit code of the process: 0 after an ordered stop; 1 when the settings are wrong, the start fails, the service can't
 * go on (`Service.done`), the stop takes longer than `SHUTDOWN_TIMEOUT_MS` (until the log is read, where it waits for that), a second signal comes, or an error is
 * uncaught.
 */
export async function runService<S extends ServiceSettings>(
  readSettings: () => S,
  start: (settings: S, logger: Logger) => Promise<Service>,
  { child = false }: RunOptions = {},
): Promise<void> {
  let settings: S;
  try {
    settings = readSettings();
  } catch (error) {
    if (!(error instanceof SettingsError)) throw error;
    process.stderr.write(`${error.message}\n`);
    process.exitCode = 1;
    return;
  }
  const form = { level: settings.LOG_LEVEL, format: settings.LOG_FORMAT };
  const logger = createLogger(form);
  const die = (message: string, fields: Record<string, unknown>) => {
    logger.error(message, fields);
    // Standard output would lose the line that says why.
    if (logger.lines.written()) {
      createLogger({ ...form, write: (lines) => process.stderr.write(lines) }).error(message, fields);
    }
    process.exit(1);
  };
  process.on('uncaughtException', (error) => die('Uncaught error, ending', { error }));
  // When the reader of the log is gone, the service works on without it.
  process.stdout.on('error', () => {});

  const starting = start(settings, logger);
  let stopping = false;
  const stop = async (signal: string) => {
    if (stopping) return die('Stopped at once by a second signal', { signal });
    stopping = true;
    const { SHUTDOWN_TIMEOUT_MS: timeout_ms, SHUTDOWN_DRAIN_MS: drain_ms = 0 } = settings;
    logger.info('Stopping', { signal, timeout_ms, ...(drain_ms > 0 && { drain_ms }) });
    sleep(drain_ms + timeout_ms, undefined, { ref: false }).then(() =>
      die('Stopped by force: not done within SHUTDOWN_TIMEOUT_MS', { timeout_ms }),
    );
    await (await starting).stop();
    logger.info('Stopped');
    await logger.lines.written();
    process.exit(0);
  };
  if (child) {
    const stopOnce = (reason: string) => (stopping ? undefined : stop(reason));
    process.on('SIGTERM', stopOnce).on('SIGINT', () => {});
    process.on('disconnect', () => stopOnce('end of the parent'));
  } else {
    process.on('SIGTERM', stop).on('SIGINT', stop);
  }

  try {
    const { url, done } = await starting;
    done?.catch((error) => die('Could not go on', { reason: (error as Error).message }));
    process.send?.({ url }, () => {}); // a parent that is gone needs no answer
  } catch (error) {
    die('Could not start', { reason: (error as Error).message });
  }
}
