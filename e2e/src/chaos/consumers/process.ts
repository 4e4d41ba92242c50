/** The process of one consumer: it runs the consumer, records what it delivers, and sends that to the checker. */
import { now } from '../clock.ts';
import { digest } from '../digest.ts';
import type { Consume, Hooks } from './consume.ts';
import type { FromConsumer, ToConsumer } from './messages.ts';

const SEND_EVERY_MS = 50;

const KINDS: Record<string, () => Promise<{ consume: Consume }>> = {
  ours: () => import('./ours.ts'),
  'pg-listen': () => import('./pgListen.ts'),
  postgres: () => import('./postgresJs.ts'),
  pg: () => import('./plainPg.ts'),
};

let ids: number[] = [];
let at: number[] = [];
let digests: number[] = [];
let held: Promise<void> | undefined;

const hooks: Hooks = {
  listening: () => send({ type: 'listening' }),
  received(signal) {
    at.push(now());
    ids.push(signal.id);
    digests.push(digest(signal));
    return held;
  },
  fail(error) {
    process.stderr.write(`${error.stack}\n`);
    flush(() => process.exit(1));
  },
};

function send(message: FromConsumer, sent: () => void = () => {}): void {
  if (process.connected) process.send!(message, undefined, undefined, sent);
}

function flush(sent?: () => void): void {
  const columns = {
    ids: Float64Array.from(ids),
    at: Float64Array.from(at),
    digests: Uint32Array.from(digests),
  };
  ids = [];
  at = [];
  digests = [];
  send({ type: 'deliveries', ...columns }, sent);
}

const stop = new AbortController();
process.on('message', (message: ToConsumer) => {
  if (message.type === 'hold') {
    held = new Promise((resolve) => setTimeout(resolve, message.ms)).then(() => {
      held = undefined;
    });
  }
  if (message.type === 'freeze') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, message.ms);
  if (message.type === 'stop') stop.abort();
});
// Ctrl-C reaches the whole process group; this process ends with the checker.
process.on('SIGINT', () => {});
process.on('disconnect', () => process.exit(1));
process.on('uncaughtException', hooks.fail);

setInterval(() => {
  if (ids.length > 0) flush();
}, SEND_EVERY_MS);

const [kind = '', name = ''] = process.argv.slice(2);
const { consume } = await KINDS[kind]!();
const consumed = consume(process.env.DATABASE_URL!, name, hooks, stop.signal);
await new Promise((resolve) => stop.signal.addEventListener('abort', resolve));
await consumed;
flush(() => process.exit(0));
