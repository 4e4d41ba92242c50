/** The rival pg-listen, used as its README says: an error ends the process. */
import { parseSignal, SIGNALS_CHANNEL } from '@pg-signals/db';
import pgListen from 'pg-listen';
import type { Consume } from './consume.ts';

export const consume: Consume = async (url, name, hooks) => {
  const subscriber = pgListen.default({ connectionString: url, application_name: name }, { parse: parseSignal });
  subscriber.notifications.on(SIGNALS_CHANNEL, (signal) => hooks.received(signal));
  subscriber.events.on('error', (error) => hooks.fail(error));
  await subscriber.connect();
  await subscriber.listenTo(SIGNALS_CHANNEL);
  hooks.listening();
};
