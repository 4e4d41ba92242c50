/** Whole producers on free ports, each test file against its own database. */
import { createPool } from '@pg-signals/db';
import { createTestDatabase } from '@pg-signals/local/testing';
import { createLogger, type Service } from '@pg-signals/runtime';
import pg from 'pg';
import { afterAll, beforeAll } from 'vitest';
import { readProducerSettings, startProducer } from '../src/index.ts';

/** What a test file works with; filled in before its first test, and taken down after its last. */
export interface TestProducers {
  databaseUrl: string;
  /** For what a test looks up, or breaks, by itself. */
  client: pg.Client;
  /** For what a test tries without HTTP. */
  pool: pg.Pool;
  /** All that the producers logged. */
  log: string;
  start(environment?: Record<string, string>): Promise<Service>;
  /** The signals in the table, in the order of their ids. */
  names(): Promise<string[]>;
}

export function useProducers(): TestProducers {
  const services: Service[] = [];
  const made = { log: '' } as TestProducers;
  let drop: () => Promise<void>;
  beforeAll(async () => {
    const database = await createTestDatabase();
    drop = database.drop;
    made.databaseUrl = database.url;
    made.client = new pg.Client({ connectionString: database.url });
    made.client.on('error', () => {});
    await made.client.connect();
    made.pool = createPool({ connectionString: database.url, application_name: 'producer test' });
  });
  afterAll(async () => {
    await Promise.all(services.map((service) => service.stop()));
    await made.pool.end();
    await made.client.end();
    await drop();
  });
  made.start = async (environment = {}) => {
    const service = await startProducer(
      readProducerSettings({ PORT: '0', DATABASE_URL: made.databaseUrl, ...environment }),
      createLogger({ write: (lines) => (made.log += lines) }),
    );
    services.push(service);
    return service;
  };
  made.names = async () => {
    const { rows } = await made.client.query<{ signal_name: string }>('SELECT signal_name FROM signals ORDER BY id');
    return rows.map(({ signal_name }) => signal_name);
  };
  return made;
}

export interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: a test says what it expects of it
  body: any;
}

export async function post(
  { url }: Pick<Service, 'url'>,
  body?: RequestInit['body'],
  headers: Record<string, string> = { 'Content-Type': 'application/json' },
): Promise<Answer> {
  const response = await fetch(`${url}/ingest`, {
    method: 'POST',
    ...(body === undefined ? {} : { body, duplex: 'half' }),
    headers,
  } as RequestInit);
  return { status: response.status, headers: response.headers, body: await response.json() };
}

export const postJson = (service: Pick<Service, 'url'>, value: unknown, headers: Record<string, string> = {}) =>
  post(service, JSON.stringify(value), { 'Content-Type': 'application/json', ...headers });
