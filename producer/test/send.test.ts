/** `npm run send`, as a process against a whole producer. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { freePort } from '@pg-signals/local/free-port';
import type { Service } from '@pg-signals/runtime';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest';
import { keyedChunks, withKey } from '../src/send/keyedLines.ts';
import { readOptions, UsageError } from '../src/send/options.ts';
import { progressLine } from '../src/send/progress.ts';
import { readLines } from '../src/send/readLines.ts';
import { sendUntilAnswered } from '../src/send/request.ts';
import { useProducers } from './testProducer.ts';

const producers = useProducers();
const MAIN = fileURLToPath(new URL('../src/send/main.ts', import.meta.url));
const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-send-'));
const children: ChildProcess[] = [];
let producer: Service;
beforeAll(async () => {
  producer = await producers.start();
});
beforeEach(async () => {
  await producers.client.query('TRUNCATE signals, signal_keys');
});
afterEach(async () => {
  for (const child of children.splice(0)) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});
afterAll(() => rmSync(directory, { recursive: true }));

function send(args: string[], { input }: { input?: string } = {}) {
  const child = spawn(process.execPath, [MAIN, `--url=${producer.url}/ingest`, ...args], { stdio: 'pipe' });
  children.push(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.on('data', (chunk) => (output.stdout += chunk));
  child.stderr.on('data', (chunk) => (output.stderr += chunk));
  child.stdin.end(input);
  const done = once(child, 'close').then(([code]) => ({ code: code as number | null, ...output }));
  return { child, done };
}

const line = (name: string) => JSON.stringify({ signal_name: name, signal_value: 1 });
const names = (count: number) => Array.from({ length: count }, (_, n) => `s${n}`);

function fileOf(lines: string[]): string {
  const file = path.join(directory, `${lines.length}-${Math.random()}.ndjson`);
  writeFileSync(file, lines.map((text) => `${text}\n`).join(''));
  return file;
}

test('one signal is inserted, and its row is printed', async () => {
  const { code, stdout } = await send(['--name', 'temperature', '--value', '-21.5', '--attributes', '{"a":1}']).done;
  expect([code, JSON.parse(stdout)]).toEqual([
    0,
    expect.objectContaining({ signal_name: 'temperature', signal_value: -21.5, attributes: { a: 1 } }),
  ]);
  expect(await producers.names()).toEqual(['temperature']);
});

test('an invalid signal is code 1, with the reason', async () => {
  const { code, stderr } = await send(['--name', '', '--value', '1']).done;
  expect([code, stderr]).toEqual([1, expect.stringContaining('/signal_name: expected 1 to 255 characters')]);
});

test('a file is inserted once, however often it is sent', async () => {
  const file = fileOf(names(2_500).map(line));
  for (let run = 0; run < 2; run++) {
    const { code, stderr } = await send(['--file', file, '--batch', '1000']).done;
    expect([code, stderr]).toEqual([
      0,
      expect.stringMatching(/^2500 signals in, 0 lines rejected, in .* \(.*\/s\)\n$/),
    ]);
  }
  expect(await producers.names()).toEqual(names(2_500));
});

test('equal lines of a file are separate signals', async () => {
  await send(['--file', fileOf([line('a'), line('a')])]).done;
  expect(await producers.names()).toEqual(['a', 'a']);
});

test('a file that is interrupted and sent again is inserted once', async () => {
  const file = fileOf(names(3_000).map(line));
  const first = send(['--file', file, '--batch', '50']);
  await producers.holds(100);
  first.child.kill('SIGKILL');
  await first.done;
  expect((await producers.names()).length).toBeLessThan(3_000);
  expect((await send(['--file', file, '--batch', '700']).done).code).toBe(0);
  expect(await producers.names()).toEqual(names(3_000));
});

test('standard input is inserted, once with the same --id', async () => {
  const input = `${line('a')}\n${line('b')}`;
  for (let run = 0; run < 2; run++) expect((await send(['--file', '-', '--id', 'night'], { input }).done).code).toBe(0);
  expect(await producers.names()).toEqual(['a', 'b']);
});

test('standard input that is interrupted says which id to use, and is inserted once with it', async () => {
  const input = names(3_000).map(line).join('\n');
  const first = send(['--file', '-', '--batch', '50'], { input });
  await producers.holds(100);
  first.child.kill('SIGINT');
  const { code, stderr } = await first.done;
  expect((await producers.names()).length).toBeLessThan(3_000);
  const said = stderr.trim().split('\n');
  const ids = said.map((text) => /--id (\S+)/.exec(text)?.[1]);
  // At the start too: a process that is killed says nothing at its end.
  expect([code, said.length, ids[0]]).toEqual([130, 2, ids[1]]);
  expect((await send(['--file', '-', '--id', ids[0]!], { input }).done).code).toBe(0);
  expect(await producers.names()).toEqual(names(3_000));
});

test('lines go in byte for byte, and only a newline ends one', async () => {
  const odd = ['a\u2028b\u2029c', 'é€😀', 'windows'];
  const file = fileOf([]);
  const text = `\ufeff${line('marked')}\n${line(odd[0]!)}\n${line(odd[1]!)}\n${line(odd[2]!)}\r\n\r\n`;
  writeFileSync(file, Buffer.concat([Buffer.from(text), Buffer.from(line('ü'), 'latin1')]));
  for (let run = 0; run < 2; run++) {
    // The producer says the same of that line when curl sends it.
    const stderr = expect.stringMatching(/^line 6: not UTF-8\n4 signals in, 1 lines rejected/);
    expect(await send(['--file', file]).done).toMatchObject({ code: 1, stderr });
  }
  expect(await producers.names()).toEqual(['marked', ...odd]);
});

test.each([
  ['empty', '', 'is empty'],
  ['blank', '\n \n', 'is empty'],
  ['compressed', gzipSync(line('a')), 'is compressed (gzip): expected lines of JSON in UTF-8'],
])('a file that is %s is reported, with code 1', async (_what, content, said) => {
  const file = fileOf([]);
  writeFileSync(file, content);
  expect(await send(['--file', file]).done).toEqual({ code: 1, stdout: '', stderr: `${file} ${said}\n` });
});

test('lines are the same however the input is cut into chunks', async () => {
  const text = '\xef\xbb\xbfa\n\nb\r\nc\rd\r';
  for (let size = 3; size <= text.length; size++) {
    const chunks = Array.from({ length: Math.ceil(text.length / size) }, (_, n) =>
      text.slice(n * size, (n + 1) * size),
    );
    expect(await Readable.from(readLines(Readable.from(chunks))).toArray()).toEqual(['a', '', 'b', 'c\rd']);
  }
});

test.each([
  ['zstd', zstdCompressSync(line('a'))],
  ['zip', Buffer.from('504b0304140000000800', 'hex')],
  ['xz', Buffer.from('fd377a585a0000', 'hex')],
  ['UTF-16', Buffer.from(`\ufeff${line('a')}`, 'utf16le')],
])('%s is recognised', async (format, bytes) => {
  await expect(Readable.from(readLines(Readable.from([bytes.toString('latin1')]))).toArray()).rejects.toThrow(format);
});

test('after --attempts it gives up, with code 1, and says how to go on', async () => {
  const url = `--url=http://127.0.0.1:${await freePort()}/ingest`;
  const file = await send(['--attempts', '2', '--file', fileOf([line('a')]), url]).done;
  expect(file).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/gave up after 2 attempts: .*ECONNREFUSED.*\n.*run it again the same way/),
  });
  const one = await send(['--attempts', '1', '--name', 'a', '--value', '1', url]).done;
  expect(one).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^gave up after 1 attempt: .*\n.*with --id \S+/),
  });
});

test('bad lines are reported with their number in the file, good ones are inserted, and the code is 1', async () => {
  const file = fileOf([line('a'), '{"signal_name":', line('b'), '7', line('c')]);
  const { code, stderr } = await send(['--file', file, '--batch', '2']).done;
  expect([code, stderr]).toEqual([
    1,
    expect.stringMatching(/^line 2: not JSON.*\nline 4: expected an object.*\n3 signals in, 2 /),
  ]);
  expect(await producers.names()).toEqual(['a', 'b', 'c']);
});

test('a request waits for a producer that is not there yet', async () => {
  const port = await freePort();
  const failed = Promise.withResolvers<string>();
  const sending = sendUntilAnswered({
    url: `http://127.0.0.1:${port}/ingest`,
    type: 'application/json',
    body: line('patient'),
    onRetry: failed.resolve,
  });
  expect(await failed.promise).toContain('ECONNREFUSED');
  const late = await producers.start({ PORT: String(port) });
  expect((await sending).status).toBe(200);
  expect(await producers.names()).toEqual(['patient']);
  await late.stop();
});

test.each([
  [['--file', 'does-not-exist.ndjson'], 1, 'no such file'],
  [['--file', tmpdir()], 1, 'EISDIR'],
  [[], 2, 'expected --name and --value, or --file'],
])('%j ends with code %i and says why', async (args, code, reason) => {
  expect(await send(args).done).toMatchObject({ code, stderr: expect.stringContaining(reason) });
});

test('readOptions reads the command line and rejects a wrong one', () => {
  expect(readOptions(['--help'])).toBeUndefined();
  expect(readOptions(['--file', '-'], { PORT: '9' })).toMatchObject({ url: 'http://localhost:9/ingest', batch: 5_000 });
  for (const args of [
    ['--name', 'a'],
    ['--value', '1'],
    ['--name', 'a', '--value', 'x'],
    ['--batch', '0', '--file', 'a'],
    ['--nme', 'a'],
    ['--url', 'x', '--file', 'a'],
  ]) {
    expect(() => readOptions(args), args.join(' ')).toThrow(UsageError);
  }
});

test('a key is put into a line without parsing it, and the line’s own key wins', () => {
  expect(withKey('{"a":1}', 'k')).toBe('{"key":"k","a":1}');
  expect(JSON.parse(withKey(' {"key":"own"}', 'k'))).toEqual({ key: 'own' });
  for (const text of ['{}', '{ }', '[]', 'x', '']) expect(withKey(text, 'k')).toBe(text);
});

test('a line has the same key in two runs, whatever the batch, and another key at another place', async () => {
  const keys = async (id: string, batch: number) => {
    const text: string[] = [];
    async function* input() {
      yield* ['{"a":1}', '{"a":1}', '{"a":2}'];
    }
    for await (const chunk of keyedChunks(input(), id, batch)) text.push(chunk.text);
    return text
      .join('')
      .trim()
      .split('\n')
      .map((json) => JSON.parse(json).key);
  };
  expect(await keys('file', 2)).toEqual(await keys('file', 100));
  expect(new Set([...(await keys('file', 2)), ...(await keys('other', 2))]).size).toBe(6);
});

test('the bar shows share, rate and the time left', () => {
  expect(progressLine(50_000, 25, 100, 2)).toBe(
    `[${'='.repeat(8)}${' '.repeat(22)}] 25 % 50,000 lines, 25,000/s, 6 s left`,
  );
  expect(progressLine(10, 25, undefined, 2)).toBe('10 lines, 5/s');
});
