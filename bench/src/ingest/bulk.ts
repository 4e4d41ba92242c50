/** Rows per second of many rows at once: NDJSON over HTTP, beside the same INSERT straight from pg, and beside COPY. */
import { once } from 'node:events';
import { request } from 'node:http';
import { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import { pipeline } from 'node:stream/promises';
import { from as copyFrom } from 'pg-copy-streams';
import { INSERT, insertColumns } from '../../../client/src/publish/insertSignals.ts';
import { toRow } from '../../../client/src/publish/signalRow.ts';
import { connect, type Database } from '../database.ts';
import { print } from '../report.ts';
import { type Figures, inTurns, medians, ROUNDS, timed } from '../statistics.ts';
import { figure, table } from '../table.ts';
import { memoryMB } from '../usage.ts';
import { attachConsumers } from './consumers.ts';
import { SECONDS_PER_POINT } from './load.ts';
import { PRODUCERS } from './producers.ts';

const ROWS = 50_000 * SECONDS_PER_POINT;
/** Rows in an INSERT, and lines in a chunk: the default of INGEST_MAX_BATCH. */
const BATCH = 1_000;
export const NDJSON = 'POST /ingest, application/x-ndjson';
export const [ALONE, ATTACHED] = ['no one listens', 'two consumers attached'] as const;

/** The ways take turns, first with no one listening, then with two consumers attached. The first rounds are not counted. */
export async function measureBulk(database: Database): Promise<{ rows: Record<string, Figures>; peakMB: number }> {
  await using producer = await PRODUCERS.ours!(database.url);
  await using stack = new AsyncDisposableStack();
  const client = await connect(database.url);
  stack.defer(() => client.end());
  const signals = Array.from({ length: ROWS }, () => ({ signal_name: 'test_signal', signal_value: Math.random() }));
  const batches = Array.from({ length: ROWS / BATCH }, (_, i) => signals.slice(i * BATCH, (i + 1) * BATCH));
  const chunks = (line: (signal: (typeof signals)[number]) => string) =>
    batches.map((batch) => Buffer.from(batch.map((signal) => `${line(signal)}\n`).join('')));

  const ndjson = chunks((signal) => JSON.stringify(signal));
  const columns = batches.map((batch) => insertColumns(batch.map((signal) => toRow(signal))));
  const lines = chunks(({ signal_name, signal_value }) => `${signal_name}\t${signal_value}`);
  const ways: Record<string, () => Promise<void>> = {
    [NDJSON]: () => post(`${producer.url}/ingest`, ndjson),
    async 'the same INSERT straight from pg, 1,000 rows each'() {
      for (const values of columns) await client.query({ name: 'bench', text: INSERT, rowMode: 'array', values });
    },
    'COPY, one transaction': () =>
      pipeline(Readable.from(lines), client.query(copyFrom('COPY signals (signal_name, signal_value) FROM STDIN'))),
  };

  /** Rows/s of each way. `arrived` resolves with the rows that are in. */
  async function measure(column: string, begin: () => Promise<void>, arrived: () => Promise<number>) {
    const turn = async (way: string) => {
      await begin();
      const ms = await timed(ways[way]!);
      const rows = await arrived();
      if (rows !== ROWS) throw new Error(`${way}: ${ROWS} rows were sent, ${rows} are in`);
      return { [column]: (ROWS / ms) * 1_000 };
    };
    return medians(await inTurns(Object.keys(ways), ROUNDS, turn, 1));
  }
  const alone = await measure(ALONE, database.empty, database.countSignals);
  await using consumers = await attachConsumers(database);
  const attached = await measure(ATTACHED, consumers.begin, async () => (await consumers.untilLevel()).rows);
  const rows = Object.fromEntries(Object.keys(ways).map((way) => [way, { ...alone[way], ...attached[way] }]));
  const title = `${figure(ROWS)} signals at once, from the first byte to the answer; medians of ${ROUNDS} rounds`;
  print(title, table('rows/s', rows));
  return { rows, peakMB: memoryMB(producer.pid, 'VmHWM') };
}

async function post(url: string, chunks: readonly Buffer[]): Promise<void> {
  const headers = { 'content-type': 'application/x-ndjson' };
  const sent = request(url, { method: 'POST', headers, agent: false });
  const [[response]] = await Promise.all([once(sent, 'response'), pipeline(Readable.from(chunks), sent)]);
  const answer = await text(response);
  if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode} ${answer}`);
}
