/** Redis Streams with `redis`: XADD, which the client sends on together in one write, and XREAD. */
import type { NewSignal } from 'pg-signals';
import { createClient } from 'redis';

export const STREAM = 'signals';
/** Entries in one answer. */
const COUNT = 1_000;

export async function connectPublisher(url: string) {
  const client = await createClient({ url }).connect();
  return (signal: NewSignal) => client.xAdd(STREAM, '*', { signal: JSON.stringify(signal) });
}

export async function subscribe(url: string, onSignal: (signal: NewSignal) => void): Promise<void> {
  const client = await createClient({ url }).connect();
  void follow();

  async function follow(): Promise<never> {
    let id = '0-0'; // the stream is empty still
    for (;;) {
      const streams = await client.xRead({ key: STREAM, id }, { BLOCK: 0, COUNT });
      const [{ messages }] = streams as unknown as [{ messages: { id: string; message: { signal: string } }[] }];
      for (const { message } of messages) onSignal(JSON.parse(message.signal));
      id = messages.at(-1)!.id;
    }
  }
}
