/** `make url`: prints the address of the database that `make run` has started, with its password. */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';

try {
  const url = readFileSync('.data/postgres/url', 'utf8');
  const { port, hostname } = new URL(url);
  const socket = connect(Number(port), hostname); // the file stays when the server has stopped
  await once(socket, 'connect');
  socket.destroy();
  process.stdout.write(url);
} catch {
  process.stderr.write('No database runs here: start one with make run.\n');
  process.exitCode = 1;
}
