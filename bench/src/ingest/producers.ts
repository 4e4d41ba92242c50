/** What takes POST /ingest: the producer in its settings, and its peers. */
import path from 'node:path';
import { buildPeer, type Service, startServer, startService } from '../services.ts';

/** The path of the Go original. */
export const go = await buildPeer('go-original');

const ours = (env: Record<string, string>) => (url: string) => startService('producer/src/main.ts', url, { env });
const peer = (file: string) => (url: string) => {
  const program = path.join(import.meta.dirname, '../../peers', file);
  return startServer([process.execPath, program], url, { env: { NODE_ENV: 'production' } });
};

/** Each starts one on a database. */
export const PRODUCERS: Record<string, (databaseUrl: string) => Promise<Service>> = {
  ours: ours({}),
  'ours, INGEST_WORKERS=2': ours({ INGEST_WORKERS: '2' }),
  'ours, INGEST_MAX_IN_FLIGHT=2': ours({ INGEST_MAX_IN_FLIGHT: '2' }),
  'express, one INSERT a request': peer('expressNaive.ts'),
  ...(go && { 'Go original': (url: string) => startServer([go, 'producer'], url, { stderr: 'ignore' }) }),
  'node:http, no database': peer('bareHttp.ts'),
};
