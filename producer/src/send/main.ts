/** `npm run send`: sends one signal, or a file of them, to a producer. */
import { randomUUID } from 'node:crypto';
import { createReadStream, statSync } from 'node:fs';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { readEnvFile } from '@pg-signals/runtime/env-file';
import { keyedChunks } from './keyedLines.ts';
import { readOptions, type SendOptions, USAGE, UsageError } from './options.ts';
import { createProgress, perSecond } from './progress.ts';
import { InputError, readLines } from './readLines.ts';
import { GaveUpError, type SendAnswer, sendUntilAnswered } from './request.ts';

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

async function sendOne({ url, id = randomUUID(), headers, attempts }: SendOptions, signal: unknown): Promise<number> {
  const { status, body } = await orSayHow(
    `with --id ${id}`,
    sendUntilAnswered({
      url,
      type: 'application/json',
      body: JSON.stringify(signal),
      headers: { ...headers, 'Idempotency-Key': id },
      attempts,
      onRetry: retry(say),
    }),
  );
  if (status === 200) process.stdout.write(`${JSON.stringify(body)}\n`);
  else say(`rejected: ${body?.detail ?? `status ${status}`}`);
  return status === 200 ? 0 : 1;
}

async function sendFile({ url, id, batch, headers, attempts }: SendOptions, file: string): Promise<number> {
  const source = openSource(file, id);
  const progress = createProgress(process.stderr, source.bytes);
  // Before the first line: a process that is killed says nothing at its end.
  if (file === '-' && id === undefined) say(`to send this input again without doubles: ${source.again}`);
  process.once('SIGINT', () => {
    progress.end();
    say(`interrupted: ${rerun(source.again)}`);
    process.exit(130);
  });
  const startedAt = performance.now();
  let [lines, accepted, refused] = [0, 0, 0];
  for await (const chunk of keyedChunks(source.lines, source.id, batch)) {
    const body = Buffer.from(chunk.text, 'latin1');
    const request = { url, type: 'application/x-ndjson', body, headers, attempts, onRetry: retry(progress.say) };
    const answer = await orSayHow(source.again, sendUntilAnswered(request));
    const report = answer.body;
    // A 422 for a chunk without a valid line has the same report as a 200.
    if (report?.accepted === undefined) {
      progress.end();
      say(`rejected from line ${chunk.first} on: ${report?.detail ?? `status ${answer.status}`}`);
      return 1;
    }
    for (const { line, detail } of report.errors) progress.say(`line ${chunk.first + line - 1}: ${detail}`);
    accepted += report.accepted;
    refused += report.refused;
    lines += chunk.lines;
    progress.show(lines, chunk.bytes);
  }
  progress.end();
  if (accepted + refused === 0) throw new InputError(`${source.name} is empty`);
  const seconds = (performance.now() - startedAt) / 1_000;
  say(
    `${accepted} signals in, ${refused} lines rejected, in ${seconds.toFixed(1)} s (${perSecond(accepted, seconds)})`,
  );
  return refused > 0 ? 1 : 0;
}

const rerun = (how: string) => `run it again ${how} within a day, and no signal is inserted twice`;

/** Adds to the reason for giving up how a second run inserts nothing twice. */
async function orSayHow(again: string, answer: Promise<SendAnswer>): Promise<SendAnswer> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof GaveUpError) error.message += `\n${rerun(again)}`;
    throw error;
  }
}

interface Source {
  /** For people. */
  name: string;
  /** In latin1. */
  lines: AsyncIterable<string>;
  /** The same in each run over the same input. */
  id: string;
  /** How to run it so that the id is the same. */
  again: string;
  bytes: number | undefined;
}

function openSource(file: string, given: string | undefined): Source {
  if (file === '-') {
    const id = given ?? randomUUID();
    const name = 'standard input';
    return {
      name,
      lines: linesOf(process.stdin, name),
      id,
      again: `with --id ${id} and the same input`,
      bytes: undefined,
    };
  }
  const { size, mtimeMs } = statSync(file);
  const id = given ?? `${path.resolve(file)}\n${size}\n${mtimeMs}`;
  return { name: file, lines: linesOf(createReadStream(file), file), id, again: 'the same way', bytes: size };
}

async function* linesOf(input: Readable, name: string): AsyncGenerator<string> {
  try {
    yield* readLines(input.setEncoding('latin1'));
  } catch (error) {
    throw error instanceof InputError ? new InputError(`${name} ${error.message}`) : error;
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  const { message } = error as Error;
  if (error instanceof UsageError) say(`${message}\n\n${USAGE}`);
  else say(error instanceof GaveUpError || error instanceof InputError ? message : `failed: ${message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
