/** What many applications write by hand: plain pg, and a new connection half a second after one was lost. */
import { parseSignal, SIGNALS_CHANNEL } from '@pg-signals/db';
import pg from 'pg';
import type { Consume } from './consume.ts';

const RECONNECT_MS = 500;

export const consume: Consume = async (url, name, hooks) => {
  const listen = async () => {
    const client = new pg.Client({ connectionString: url, application_name: name, keepAlive: true });
    let lost = false;
    const reconnect = () => {
      if (lost) return;
      lost = true;
      client.end().catch(() => {});
      setTimeout(listen, RECONNECT_MS);
    };
    client.on('error', reconnect).on('end', reconnect);
    client.on('notification', ({ payload = '' }) => hooks.received(parseSignal(payload)));
    try {
      await client.connect();
      await client.query(`LISTEN ${SIGNALS_CHANNEL}`);
      hooks.listening();
    } catch {
      reconnect();
    }
  };
  await listen();
};
