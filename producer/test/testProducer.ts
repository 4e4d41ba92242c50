/** Whole producers on free ports, and requests to them. */
import { FaultyProxy } from '@pg-signals/local/faulty-proxy';
import { asRole } from '@pg-signals/local/testing';
import { createLogger, type Service } from '@pg-signals/runtime';
import { afterAll, beforeAll } from 'vitest';
import { type TestTable, useTable } from '../../client/test/publish/testTable.ts';
import { readProducerSettings, startProducer } from '../src/index.ts';

export interface TestProducers extends TestTable {
  /** All that the producers logged. */
  log: string;
  /** Starts a producer on the test file's database, as `signals_producer`; it is stopped after the last test. */
  start(environment?: Record<string, string>): Promise<Service>;
}

export function useProducers(): TestProducers {
  const services: Service[] = [];
  const producers: TestProducers = Object.assign(useTable(), {
    log: '',
    async start(environment: Record<string, string> = {}) {
      const service = await startProducer(
        readProducerSettings({
          PORT: '0',
          ...environment,
          DATABASE_URL: asRole(environment.DATABASE_URL ?? producers.databaseUrl, 'signals_producer'),
        }),
        createLogger({ write: (lines) => (producers.log += lines) }),
      );
      services.push(service);
      return service;
    },
  });
  // vitest runs these in reverse: the producers stop before the table goes.
  afterAll(() => Promise.all(services.map((service) => service.stop())));
  return producers;
}

/** A port on which no server listens: a proxy with this target breaks every new connection off. */
export const NO_SERVER = 1;

export interface TestProxy {
  /** Between a producer and the database. */
  proxy: FaultyProxy;
  /** The database's URL through the proxy. */
  url: string;
  /** Goes silent, as a network does: nothing is closed and nothing passes, until the returned function is called. */
  silence(): () => void;
}

export function useProxy(table: TestTable): TestProxy {
  const proxied = {
    silence: () => proxied.proxy.block('connect', 'toServer', 'toClient'),
  } as TestProxy;
  beforeAll(async () => {
    const url = new URL(table.databaseUrl);
    proxied.proxy = new FaultyProxy(Number(url.port));
    await proxied.proxy.start();
    url.port = String(proxied.proxy.port);
    proxied.url = url.href;
  });
  afterAll(() => proxied.proxy.close());
  return proxied;
}

export interface Answer {
  status: number;
  headers: Headers;
  // biome-ignore lint/suspicious/noExplicitAny: each test says what it expects
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
