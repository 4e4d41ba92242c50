/** Health and metrics: on a port of their own, and silent on where the database is. */
import { freePort } from '@pg-signals/local/free-port';
import { expect, test } from 'vitest';
import { NO_SERVER, post, useProducers } from './testProducer.ts';

const producers = useProducers();
const HEALTH = ['/healthz', '/readyz', '/metrics'];

test('with HEALTH_PORT health and metrics are there, and nothing else is', async () => {
  const HEALTH_PORT = String(await freePort());
  const { url } = await producers.start({ HEALTH_PORT });
  const health = `http://127.0.0.1:${HEALTH_PORT}`;
  for (const path of HEALTH) {
    expect((await fetch(health + path)).status).toBe(200);
    expect((await fetch(url + path)).status).toBe(404);
  }
  expect((await post({ url })).status).toBe(200);
  expect((await post({ url: health })).status).toBe(404);
  expect(await (await fetch(health)).text()).toContain('/readyz');
  expect(await (await fetch(url)).text()).not.toContain('/readyz');
  await expect(producers.start({ HEALTH_PORT })).rejects.toThrow(
    `Port ${HEALTH_PORT} is taken by another program: stop that one, or set HEALTH_PORT to a free port.`,
  );
});

test('/readyz names no user, host or address, and the log does', async () => {
  const refused = new URL(producers.databaseUrl);
  [refused.username, refused.password] = ['no_such_role', 'x'];
  const nowhere = new URL(refused);
  nowhere.hostname = 'nowhere.invalid';
  const closed = new URL(refused);
  closed.port = String(NO_SERVER);
  for (const [database, said] of [
    [refused, 'no_such_role'],
    [nowhere, 'nowhere.invalid'],
    [closed, `127.0.0.1:${NO_SERVER}`],
  ] as const) {
    const { url } = await producers.start({ DATABASE_URL: database.href });
    const answer = await fetch(`${url}/readyz`);
    expect(await answer.json()).toEqual({
      title: 'Service Unavailable',
      status: 503,
      detail: 'The database does not answer: the log says why.',
    });
    expect(producers.log).toMatch(new RegExp(`WARN Not ready reason=.*${said}`));
  }
});
