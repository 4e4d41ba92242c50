/** `npm run send`: sends one signal, or a file of them, to a producer. */
import { randomUUID } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { readEnvFile } from '@pg-signals/runtime/env-file';
import { keyedChunks } from './keyedLines.ts';
import { readOptions, type SendOptions, USAGE, UsageError } from './options.ts';
import { createProgress, perSecond } from './progress.ts';
import { sendUntilAnswered } from './request.ts';

const say = (line: string) => process.stderr.write(`${line}\n`);
const retry = (say: (line: string) => void) => (reason: string, delayMs: number) =>
  say(`failed, sending again in ${delayMs} ms: ${reason}`);

/** @returns the exit code. */
async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2), { ...readEnvFile('.env'), ...process.env });
  if (!options) {
    process.stdout.write(USAGE);
    return 0;
  }
  return 'file' in options.what ? sendFile(options, options.what.file) : sendOne(options, options.what.signal);
}

async function sendOne({ url, id, headers }: SendOptions, signal: unknown): Promise<number> {
  const { status, body } = await sendUntilAnswered({
    url,
    type: 'application/json',
    body: JSON.stringify(signal),
    headers: { ...headers, 'Idempotency-Key': id ?? randomUUID() },
    onRetry: retry(say),
  });
  if (status === 200) process.stdout.write(`${JSON.stringify(body)}\n`);
  else say(`rejected: ${body?.detail ?? `status ${status}`}`);
  return status === 200 ? 0 : 1;
}

async function sendFile({ url, id, batch, headers }: SendOptions, file: string): Promise<number> {
  const source = openSource(file);
  const progress = createProgress(process.stderr, source.bytes);
  process.once('SIGINT', () => {
    progress.end();
    const again = file === '-' ? 'with the same --id and input' : 'the same way';
    say(`interrupted: run it again ${again} within a day, and no signal is inserted twice`);
    process.exit(130);
  });
  const startedAt = performance.now();
  let [lines, accepted, refused] = [0, 0, 0];
  for await (const chunk of keyedChunks(source.lines, id ?? source.id, batch)) {
    const request = { url, type: 'application/x-ndjson', body: chunk.text, headers, onRetry: retry(progress.say) };
    const { status, body } = await sendUntilAnswered(request);
    // A 422 for a chunk without a valid line has the same report as a 200.
    if (body?.accepted === undefined) {
      progress.end();
      say(`rejected from line ${chunk.first} on: ${body?.detail ?? `status ${status}`}`);
      return 1;
    }
    for (const { line, detail } of body.errors) progress.say(`line ${chunk.first + line - 1}: ${detail}`);
    accepted += body.accepted;
    refused += body.refused;
    lines += chunk.lines;
    progress.show(lines, chunk.bytes);
  }
  progress.end();
  const seconds = (performance.now() - startedAt) / 1_000;
  say(
    `${accepted} signals in, ${refused} lines rejected, in ${seconds.toFixed(1)} s (${perSecond(accepted, seconds)})`,
  );
  return refused > 0 ? 1 : 0;
}

/** The lines of a file, and an id that stays the same while the file does. */
function openSource(file: string): { lines: AsyncIterable<string>; id: string; bytes: number | undefined } {
  const linesOf = (input: NodeJS.ReadableStream) => createInterface({ input, crlfDelay: Number.POSITIVE_INFINITY });
  if (file === '-') return { lines: linesOf(process.stdin), id: randomUUID(), bytes: undefined };
  const { size, mtimeMs } = statSync(file);
  const id = `${path.resolve(file)}\n${size}\n${mtimeMs}`;
  return { lines: linesOf(createReadStream(file)), id, bytes: size };
}

try {
  process.exitCode = await main();
} catch (error) {
  say(error instanceof UsageError ? `${error.message}\n\n${USAGE}` : `failed: ${(error as Error).message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
