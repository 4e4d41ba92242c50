/** Our consumer: the Listener as an application uses it, with settings short enough for a run of a minute. */
import { createPool } from '@pg-signals/db';
import { createLogger } from '@pg-signals/runtime';
import { Listener, type ListenerOptions } from 'pg-signals';
import type { Consume } from './consume.ts';

export const consume: Consume = async (url, name, hooks, signal) => {
  const pool = createPool({ connectionString: url, application_name: name, max: 4 });
  const options: ListenerOptions = {
    logger: createLogger({ write: hooks.log }),
    observer: { listening: (now) => now && hooks.listening() },
    proofIntervalMs: 500,
    proofTimeoutMs: 500,
    pollMs: 200,
    bufferMax: 1_000,
  };
  const listener = new Listener(pool, options, (received) => hooks.received(received));
  await listener.start(signal);
  await pool.end();
};
