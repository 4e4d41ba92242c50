/** The rival postgres.js: its `sql.listen` subscribes again by itself. */
import { parseSignal, SIGNALS_CHANNEL } from '@pg-signals/db';
import postgres from 'postgres';
import type { Consume } from './consume.ts';

export const consume: Consume = async (url, name, hooks) => {
  const sql = postgres(url, { connection: { application_name: name } });
  await sql.listen(
    SIGNALS_CHANNEL,
    (payload) => hooks.received(parseSignal(payload)),
    () => hooks.listening(),
  );
};
