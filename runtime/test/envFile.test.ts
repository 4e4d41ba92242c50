import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { readEnvFile } from '../src/envFile.ts';

const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-env-'));
const file = path.join(directory, '.env');
afterAll(() => rmSync(directory, { recursive: true }));

function read(...lines: string[]) {
  writeFileSync(file, lines.join('\n'));
  return readEnvFile(file);
}

test('a value is read as it stands, and in single quotes it may hold any other character', () => {
  expect(read('# a comment', 'A=a b', `export B='a#b$c"d\\e' # why`, '', '#C=1', 'D="it\'s"', 'E=', 'F=x # y')).toEqual(
    {
      A: 'a b',
      B: 'a#b$c"d\\e',
      D: "it's",
      E: '',
      F: 'x',
    },
  );
  expect(read(`A='two`, `lines'`, 'B=1')).toEqual({ A: 'two\nlines', B: '1' });
});

test('every variable that docker compose would read differently is named, without its value', () => {
  const lines = ['A=a#b', 'B=a$b', 'C="a$b"', 'D="a\\tb"', "E='a'b", 'F=`a`', "G='it\\'s'", 'H=fine', "I='fine'"];
  expect(() => read(...lines)).toThrow(
    expect.objectContaining({
      message: ['A', 'B', 'C', 'D', 'E', 'F', 'G']
        .map((name) => `${name}: expected its value in ${file} in single quotes, which docker compose reads as we do`)
        .join('\n'),
    }),
  );
});

test('no file is no variable', () => {
  expect(readEnvFile(path.join(directory, 'none'))).toEqual({});
});
