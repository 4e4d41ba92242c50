/** `make run`: PostgreSQL, a producer and consumers on this machine, in one terminal, until Ctrl-C. */
import { fileURLToPath } from 'node:url';
import { SettingsError } from '@pg-signals/runtime';
import { LocalStack } from './localStack.ts';
import { type RunSettings, readRunSettings } from './runSettings.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

function run(settings: RunSettings): void {
  const abort = new AbortController();
  let readable = true;
  const write = (lines: string) => {
    if (readable) process.stdout.write(lines);
  };
  const stack = new LocalStack({ root, settings, write, onLost: (reason) => end(1, `${reason}: stopping everything`) });
  const starting = stack.start(abort.signal);

  let ending = false;
  async function end(code: number, reason: string) {
    if (ending) return;
    ending = true;
    write(`${reason}\n`);
    abort.abort();
    await starting.catch(() => {}); // so that stop() sees every process that it started
    const inOrder = await stack.stop();
    if (code === 0) write('Stopped\n');
    process.exit(inOrder ? code : 1);
  }

  process.on('SIGINT', () => {
    if (!ending) return end(0, 'Stopping; Ctrl-C again ends everything at once');
    return stack.kill().finally(() => process.exit(1));
  });
  // A second one changes nothing: a signal to the whole group arrives twice, once through make.
  process.on('SIGTERM', () => end(0, 'Stopping'));
  process.on('SIGHUP', () => end(0, 'Stopping'));
  // `make run | head`: the reader is gone.
  process.stdout.on('error', () => {
    readable = false;
    return end(0, 'Stopping');
  });

  starting.then(
    (url) => write(`Ready after ${process.uptime().toFixed(1)} s. Try it: curl -X POST ${new URL(url).host}/ingest\n`),
    (error: Error) => end(1, `Could not start: ${error.message}`),
  );
}

try {
  run(readRunSettings(root, process.env));
} catch (error) {
  if (!(error instanceof SettingsError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
