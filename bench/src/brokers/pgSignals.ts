/** Ours from code: `createPublisher`, and a `Listener`. */
import { createPool } from '@pg-signals/db';
import { createPublisher, Listener, type NewSignal } from 'pg-signals';

export async function connectPublisher(url: string) {
  return createPublisher(createPool({ connectionString: url, application_name: 'bench publisher' })).publish;
}

export async function subscribe(url: string, onSignal: (signal: NewSignal) => void): Promise<void> {
  const pool = createPool({ connectionString: url, application_name: 'bench subscriber' });
  await new Promise<void>((resolve) => {
    const observer = { listening: (now: boolean) => now && resolve() };
    new Listener(pool, { observer }, onSignal).start(new AbortController().signal);
  });
}
