/** What takes POST /ingest in the bench: the producer in its settings, and its peers. */
import { fileURLToPath } from 'node:url';
import { freePort } from '@pg-signals/local/embedded';
import { peakMB } from './memory.ts';
import { answersHttp, startPeer } from './peerProcess.ts';
import { startServiceChild } from './serviceChild.ts';

export interface Producer {
  readonly name: ProducerName;
  /** Of `POST /ingest`. */
  readonly url: string;
  readonly pid: number;
  /** False where there is no database behind it. */
  readonly inserts: boolean;
  /** The most memory that it ever had, in MB. */
  peakMB(): number;
  stop(): Promise<void>;
}

export const PRODUCERS = {
  ours: 'ours',
  workers: 'ours, INGEST_WORKERS=2',
  twoInFlight: 'ours, INGEST_MAX_IN_FLIGHT=2',
  naive: 'express, one INSERT a request',
  go: 'Go original',
  bare: 'node:http, no database',
} as const;
export type ProducerName = keyof typeof PRODUCERS;

const OURS: Partial<Record<ProducerName, Record<string, string>>> = {
  ours: {},
  workers: { INGEST_WORKERS: '2' },
  twoInFlight: { INGEST_MAX_IN_FLIGHT: '2' },
};

/** Starts one of them; `go` is the path of the Go original. */
export async function startProducer(name: ProducerName, databaseUrl: string, go?: string): Promise<Producer> {
  const env = OURS[name];
  if (env) {
    const service = await startServiceChild('producer/src/main.ts', databaseUrl, { env });
    return describe(name, service.url, service);
  }
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const peerEnv = { DATABASE_URL: databaseUrl, PORT: String(port), ADDR: `127.0.0.1:${port}`, NODE_ENV: 'production' };
  const program = name === 'bare' ? '../peers/bareHttp.ts' : '../peers/expressNaive.ts';
  const [command, args] =
    name === 'go' ? [go!, ['producer']] : [process.execPath, [fileURLToPath(new URL(program, import.meta.url))]];
  const peer = startPeer(command, args, { env: peerEnv });
  await answersHttp(`${url}/nothing-here`);
  return describe(name, url, peer);
}

function describe(
  name: ProducerName,
  url: string,
  { process, stop }: Pick<Awaited<ReturnType<typeof startServiceChild>>, 'process' | 'stop'>,
): Producer {
  const pid = process.pid!;
  return { name, url: `${url}/ingest`, pid, inserts: name !== 'bare', peakMB: () => peakMB(pid), stop };
}
