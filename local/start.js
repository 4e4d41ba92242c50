/**
 * Starts the program of an npm script, or says what to type in a clone without `npm ci`, which installs the Node that runs
 * TypeScript. Plain JavaScript, since any Node must run it.
 */
import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

if (existsSync('node_modules/.bin/node')) {
  const [program] = process.argv.splice(2, 1); // the program finds its own arguments where it would without this one
  await import(pathToFileURL(resolve(program)).href);
} else {
  console.error(
    `Nothing is installed here yet. Type npm ci, with Node 20 or newer (this is ${process.versions.node}).`,
  );
  process.exitCode = 1;
}
