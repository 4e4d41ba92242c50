/** More than signals on one connection: plain channels, other tables, publishing from code. */
import { expect, test } from 'vitest';
import { type FeedTable, notify } from '../../src/index.ts';
import { Condition, useListeners, Writer } from '../testListener.ts';

const listeners = useListeners();
const { listening } = listeners;

/** A handler of a channel whose payloads can be waited for. */
function recorder() {
  const condition = new Condition();
  const payloads: string[] = [];
  return {
    payloads,
    handler: (payload: string) => {
      payloads.push(payload);
      condition.changed();
    },
    has: (payload: string) => condition.until(() => payloads.includes(payload)),
  };
}

/** The last query of each connection that listens: LISTEN or UNLISTEN. */
const listeningQueries = async () =>
  (
    await listeners.writer.client.query<{ query: string }>(
      `SELECT query FROM pg_stat_activity WHERE application_name = 'test listener' AND query ~ 'LISTEN'`,
    )
  ).rows.map(({ query }) => query);

test('channels come and go while it listens, with several handlers each, on one connection', async () => {
  const [a, b, other] = [recorder(), recorder(), recorder()];
  const started = await listening({ prepare: (each) => each.addListener('weather', a.handler) });
  const { listener } = started;
  listener.addListener('weather', b.handler).addListener('Odd "channel"', other.handler);
  // A proof that is begun now asks the connection after LISTEN was sent on it.
  await started.happened('latency', (started.counts.latency ?? 0) + 2);
  await listeners.writer.client.query(`SELECT pg_notify('weather', 'sun')`);
  await Promise.all([a.has('sun'), b.has('sun')]);
  await notify(listeners.writer.client, 'Odd "channel"', 'x');
  await other.has('x');

  listener.removeListener('weather', a.handler);
  await notify(listeners.writer.client, 'weather', 'rain');
  await b.has('rain');
  expect(a.payloads).toEqual(['sun']);

  listener.removeListener('weather', b.handler);
  await notify(listeners.writer.client, 'weather', 'snow');
  await notify(listeners.writer.client, 'Odd "channel"', 'after');
  await other.has('after');
  expect(b.payloads).toEqual(['sun', 'rain']);
  expect(await listeningQueries()).toHaveLength(1);
});

test('channels are listened on again after the connection was lost', async () => {
  const { payloads, handler, has } = recorder();
  const listener = await listening();
  listener.listener.addListener('weather', handler);
  await listeners.writer.killBackends();
  await listener.listening(2);
  await notify(listeners.writer.client, 'weather', 'sun');
  await has('sun');
  expect(payloads).toEqual(['sun']);
});

test('markers of a proof reach no handler and no other listener', async () => {
  const listeners = await Promise.all([listening(), listening()]);
  await Promise.all(listeners.map((each) => each.until(() => each.counts.latency >= 5)));
  for (const { ids, log } of listeners) {
    expect(ids).toEqual([]);
    expect(log).not.toContain('WARN');
  }
});

test('a name that PostgreSQL would cut is refused', async () => {
  const { listener } = await listening();
  expect(() => listener.addListener('x'.repeat(64), () => {})).toThrow("A channel's name has 1 to 63 bytes");
  expect(() => listener.addListener('', () => {})).toThrow(RangeError);
});

interface AuditEvent {
  readonly id: number;
  readonly xid: string;
  readonly what: string;
}

const audit: FeedTable<AuditEvent> = {
  table: 'audit.events',
  channel: 'audit',
  columns: ['id', 'xid', 'what'],
  parse: (payload) => JSON.parse(payload),
};

async function createAudit(): Promise<void> {
  await listeners.writer.client.query(`
    CREATE SCHEMA audit;
    CREATE TABLE audit.events (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text NOT NULL, secret text, xid xid8 NOT NULL DEFAULT pg_current_xact_id());
    CREATE INDEX ON audit.events (xid, id);
    CREATE FUNCTION audit.tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
      PERFORM pg_notify('audit', json_build_object('id', NEW.id, 'xid', NEW.xid, 'what', NEW.what)::text); RETURN NULL; END $$;
    CREATE TRIGGER tell AFTER INSERT ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.tell()`);
}

const addEvents = (what: string) =>
  listeners.writer.client.query('INSERT INTO audit.events (what) VALUES ($1)', [what]);

test('a feed serves any table that is written like signals, with the same guarantee', async () => {
  await createAudit();
  const events: AuditEvent[] = [];
  const condition = new Condition();
  const listener = await listening({
    prepare: (each) =>
      each.addFeed(audit, (event) => {
        events.push(event);
        condition.changed();
      }),
  });
  await listeners.writer.client.query(`INSERT INTO audit.events (what, secret) VALUES ('login', 'x')`);
  await condition.until(() => events.length === 1);
  await listeners.writer.killBackends();
  await listeners.writer.client.query(
    `INSERT INTO audit.events (what) SELECT 'step ' || n FROM generate_series(1, 2500) AS n`,
  );
  const ids = await listeners.writer.insert(3);
  await condition.until(() => events.length === 2_501);
  await listener.received(3);
  expect(events.slice(0, 3)).toEqual([
    { id: 1, xid: expect.any(String), what: 'login' },
    { id: 2, xid: expect.any(String), what: 'step 1' },
    { id: 3, xid: expect.any(String), what: 'step 2' },
  ]);
  expect(listener.ids).toEqual(ids);
});

test('after a lost connection, a callback that is still at work holds up its own feed and no other', async () => {
  await createAudit();
  const events: string[] = [];
  const condition = new Condition();
  const work = Promise.withResolvers<void>();
  const { payloads, handler, has } = recorder();
  const listener = await listening({
    callback: () => work.promise,
    prepare: (each) =>
      each.addListener('weather', handler).addFeed(audit, ({ what }) => {
        events.push(what);
        condition.changed();
      }),
  });
  await listener.until(() => listener.listener.proofAgeMs !== undefined);
  const ids = await listeners.writer.insert(2);
  await listener.received(1);
  await listeners.writer.killBackends();
  await listener.listening(2);
  // Missed, and notified.
  await addEvents('first');
  await notify(listeners.writer.client, 'weather', 'rain');
  await Promise.all([condition.until(() => events.length === 1), has('rain')]);
  expect([events, payloads, listener.ids]).toEqual([['first'], ['rain'], ids.slice(0, 1)]);
  // The feed that is held up has received nothing since before this moment, and says so.
  const held = performance.now();
  await listeners.writer.killBackends();
  ids.push(...(await listeners.writer.insert(3)));
  await addEvents('second');
  await listener.listening(3);
  await condition.until(() => events.length === 2);
  expect(listener.listener.proofAgeMs).toBeGreaterThanOrEqual(performance.now() - held);
  work.resolve();
  ids.push(...(await listeners.writer.insert(3)));
  await listener.received(ids.length);
  expect(listener.ids).toEqual(ids);
});

test('published in a transaction, a payload comes at its commit, and never after a rollback', async () => {
  const { payloads, handler, has } = recorder();
  await listening({ prepare: (each) => each.addListener('weather', handler) });
  await listeners.writer.client.query('BEGIN');
  await notify(listeners.writer.client, 'weather', 'rolled back');
  await listeners.writer.client.query('ROLLBACK; BEGIN');
  await notify(listeners.writer.client, 'weather', 'committed');
  const outside = await Writer.connect(listeners.url);
  await notify(outside.client, 'weather', 'meanwhile');
  await has('meanwhile');
  expect(payloads).toEqual(['meanwhile']);
  await listeners.writer.client.query('COMMIT');
  await has('committed');
  expect(payloads).toEqual(['meanwhile', 'committed']);
  await outside.end();
});

test('a payload over the limit is refused before it reaches the server, and the transaction lives on', async () => {
  const { handler, has } = recorder();
  await listening({ prepare: (each) => each.addListener('weather', handler) });
  await listeners.writer.client.query('BEGIN');
  await expect(notify(listeners.writer.client, 'weather', 'é'.repeat(4_000))).rejects.toThrow(
    'at most 7999 bytes, this one has 8000',
  );
  await expect(notify(listeners.writer.client, 'x'.repeat(64), '')).rejects.toThrow(RangeError);
  await notify(listeners.writer.client, 'weather', 'x'.repeat(7_999));
  await listeners.writer.client.query('COMMIT');
  await has('x'.repeat(7_999));
});

test('a handler that throws or rejects is logged, and the others get what comes', async () => {
  const { payloads, handler, has } = recorder();
  const listener = await listening({
    prepare: (each) =>
      each
        .addListener('weather', (payload) => {
          if (payload === 'sun') throw new Error('thrown');
          return Promise.reject(new Error('rejected'));
        })
        .addListener('weather', handler),
  });
  const ids = await listeners.writer.insert(1);
  await listeners.writer.client.query(`SELECT pg_notify('weather', 'sun'), pg_notify('weather', 'rain')`);
  ids.push(...(await listeners.writer.insert(1)));
  await Promise.all([has('rain'), listener.received(2)]);
  expect(payloads).toEqual(['sun', 'rain']);
  expect(listener.ids).toEqual(ids);
  expect(listener.log).toContain('ERROR Handler failed, going on channel=weather error=Error: thrown');
  expect(listener.log).toContain('ERROR Handler failed, going on channel=weather error=Error: rejected');
});
