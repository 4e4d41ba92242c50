/** A server whose messages come in another language: what becomes of a signal must not depend on their text. */
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createPool } from '@pg-signals/db';
import { migrate } from '@pg-signals/db/migrate';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@pg-signals/local/embedded';
import { createLogger, type Service } from '@pg-signals/runtime';
import type pg from 'pg';
import { createPublisher } from 'pg-signals';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { readProducerSettings, startProducer } from '../src/index.ts';
import { sendUntilAnswered } from '../src/send/request.ts';
import { postJson } from './testProducer.ts';

const LOCALE = 'de_DE.UTF-8';
const directory = mkdtempSync(path.join(tmpdir(), 'pg-signals-german-'));
const bin = debianPostgres();
const missing = bin
  ? makeLocale()
  : 'no PostgreSQL with translations in /usr/lib/postgresql (apt-get install postgresql)';
if (missing) process.stderr.write(`skipped: the tests with a German server: ${missing}\n`);

/** The newest PostgreSQL of Debian that has its messages in German. */
function debianPostgres(): string | undefined {
  const root = '/usr/lib/postgresql';
  const versions = existsSync(root) ? readdirSync(root) : [];
  const newest = versions
    .filter((version) => existsSync(`/usr/share/locale/de/LC_MESSAGES/postgres-${version}.mo`))
    .sort((a, b) => Number(b) - Number(a))[0];
  return newest && path.join(root, newest, 'bin');
}

/** Compiles the locale into the test's folder, where LOCPATH finds it. @returns why it can't. */
function makeLocale(): string | undefined {
  chmodSync(directory, 0o755);
  try {
    execFileSync('localedef', ['-i', 'de_DE', '-f', 'UTF-8', path.join(directory, LOCALE)], { stdio: 'pipe' });
    return undefined;
  } catch (error) {
    return `localedef failed (apt-get install locales): ${(error as Error).message}`;
  }
}

const named = (name: string) => ({ signal_name: name, signal_value: 1 });
/** A signal that passes our own check, and that the table refuses. */
const yearZero = { ...named('year 0'), timestamp: '0000-01-01T00:00:00Z' };

describe.skipIf(missing)('a server that speaks German', () => {
  let postgres: EmbeddedPostgres;
  let pool: pg.Pool;
  let producer: Service;
  beforeAll(async () => {
    postgres = await startEmbeddedPostgres({
      directory: path.join(directory, 'postgres'),
      bin: bin!,
      settings: { lc_messages: LOCALE, fsync: 'off' },
      env: { LOCPATH: directory },
    });
    await migrate(postgres.url);
    pool = createPool({ connectionString: postgres.url, application_name: 'test', max: 1 });
    producer = await startProducer(
      readProducerSettings({ PORT: '0', DATABASE_URL: postgres.url }),
      createLogger({ write() {} }),
    );
  });
  afterAll(async () => {
    await producer?.stop();
    await pool?.end();
    await postgres?.stop('immediate');
    rmSync(directory, { recursive: true });
  });

  test('its messages are German', async () => {
    await expect(pool.query('SELEC')).rejects.toMatchObject({ severity: 'FEHLER', code: '42601' });
  });

  test('a signal that it refuses is 422', async () => {
    expect(await postJson(producer, yearZero)).toMatchObject({ status: 422, body: { title: 'Unprocessable Entity' } });
    expect(await postJson(producer, [named('a'), yearZero])).toMatchObject({
      status: 422,
      body: { errors: [{ pointer: '/1' }] },
    });
  });

  test('one bad signal among fifty fails alone', async () => {
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, n) => postJson(producer, n === 17 ? yearZero : named(`s${n}`))),
    );
    expect(answers.flatMap(({ status }, n) => (status === 200 ? [] : [[n, status]]))).toEqual([[17, 422]]);
  });

  test('a key that stands for another signal is 409', async () => {
    const headers = { 'Idempotency-Key': 'k' };
    expect((await postJson(producer, named('one'), headers)).status).toBe(200);
    expect((await postJson(producer, named('two'), headers)).status).toBe(409);
  });

  test('send reports a bad line, and sends it once', async () => {
    const retries: string[] = [];
    const { status, body } = await sendUntilAnswered({
      url: `${producer.url}/ingest`,
      type: 'application/x-ndjson',
      body: [named('a'), yearZero, named('b')].map((signal) => JSON.stringify(signal)).join('\n'),
      onRetry: (reason) => retries.push(reason),
    });
    expect([status, body.accepted, body.errors.length, retries]).toEqual([200, 2, 1, []]);
  });

  test('publishing goes on where a session loses its prepared statements', async () => {
    const publisher = createPublisher(pool);
    await publisher.publish(named('prepared'));
    await pool.query('DEALLOCATE ALL');
    expect(await publisher.publish(named('unprepared'))).toMatchObject({ signal_name: 'unprepared' });
  });
});
