/** Rows per second of many rows at once: NDJSON over HTTP, beside the same INSERT straight from pg, and beside COPY. */
import { once } from 'node:events';
import { request } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import pg from 'pg';
import { from as copyFrom } from 'pg-copy-streams';
import { INSERT, insertColumns } from '../../client/src/publish/insertSignals.ts';
import { toRow } from '../../client/src/publish/signalRow.ts';
import { attachConsumers, countSignals } from './attachedConsumers.ts';
import type { BenchDatabase } from './database.ts';
import type { BulkTable, BulkWay } from './ingestResults.ts';
import { startProducer } from './producers.ts';
import { median } from './statistics.ts';

export interface BulkPlan {
  rounds: number;
  rows: number;
}

/** The producer's own, by default: INGEST_MAX_BATCH. */
const BATCH = 1_000;
const CHUNK_LINES = 1_000;

type Run = () => Promise<void>;

/** The ways take turns, first with nobody listening, then with two consumers attached. */
export async function measureBulk(database: BenchDatabase, plan: BulkPlan): Promise<BulkTable> {
  await using stack = new AsyncDisposableStack();
  const producer = await startProducer('ours', database.url);
  stack.defer(() => producer.stop());
  const client = new pg.Client({ connectionString: database.url });
  await client.connect();
  stack.defer(() => client.end());
  const signals = Array.from({ length: plan.rows }, () => ({
    signal_name: 'test_signal',
    signal_value: Math.random(),
  }));
  const ways: Record<BulkWay, Run> = {
    ndjson: ndjson(producer.url, signals),
    insert: insert(client, signals),
    copy: copy(client, signals),
  };

  const alone = await inTurn(ways, plan.rounds, async (run) => {
    await database.client.query('TRUNCATE signals');
    await database.client.query('CHECKPOINT');
    const seconds = await time(run);
    await requireRows(await countSignals(database.client), plan.rows);
    return plan.rows / seconds;
  });
  const consumers = await attachConsumers(database.url, database.client);
  stack.defer(() => consumers.stop());
  const attached = await inTurn(ways, plan.rounds, async (run) => {
    await consumers.begin();
    const seconds = await time(run);
    await requireRows(await consumers.untilLevel(), plan.rows);
    return plan.rows / seconds;
  });
  return { ...plan, alone, attached, peakMB: producer.peakMB() };
}

type NewSignals = readonly { signal_name: string; signal_value: number }[];

function ndjson(url: string, signals: NewSignals): Run {
  const chunks = inChunks(signals.map((signal) => JSON.stringify(signal)));
  return async () => {
    const sent = request(url, { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, agent: false });
    const [[response]] = await Promise.all([once(sent, 'response'), pipeline(Readable.from(chunks), sent)]);
    const answer = await new Response(response).text();
    if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode} ${answer}`);
  };
}

/** One batch after the other, as the producer does, from columns that are there already. */
function insert(client: pg.Client, signals: NewSignals): Run {
  const batches = Array.from({ length: Math.ceil(signals.length / BATCH) }, (_, index) =>
    insertColumns(signals.slice(index * BATCH, (index + 1) * BATCH).map((signal) => toRow(signal))),
  );
  return async () => {
    for (const values of batches) await client.query({ name: 'bench', text: INSERT, rowMode: 'array', values });
  };
}

/** All rows in one statement, and one transaction. */
function copy(client: pg.Client, signals: NewSignals): Run {
  const chunks = inChunks(signals.map(({ signal_name, signal_value }) => `${signal_name}\t${signal_value}`));
  return () =>
    pipeline(Readable.from(chunks), client.query(copyFrom('COPY signals (signal_name, signal_value) FROM STDIN')));
}

function inChunks(lines: readonly string[]): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < lines.length; at += CHUNK_LINES) {
    chunks.push(Buffer.from(`${lines.slice(at, at + CHUNK_LINES).join('\n')}\n`));
  }
  return chunks;
}

/** Rows/s of each way: the median of the rounds, before which there is one that is not counted. */
async function inTurn(
  ways: Record<BulkWay, Run>,
  rounds: number,
  measure: (run: Run) => Promise<number>,
): Promise<Record<BulkWay, number>> {
  const measured: Record<BulkWay, number[]> = { ndjson: [], insert: [], copy: [] };
  for (let round = 0; round <= rounds; round++) {
    for (const [way, run] of Object.entries(ways) as [BulkWay, Run][]) {
      const rate = await measure(run);
      if (round > 0) measured[way].push(rate);
    }
  }
  return { ndjson: median(measured.ndjson), insert: median(measured.insert), copy: median(measured.copy) };
}

async function time(run: Run): Promise<number> {
  const start = performance.now();
  await run();
  return (performance.now() - start) / 1_000;
}

async function requireRows(rows: number, expected: number): Promise<void> {
  if (rows !== expected) throw new Error(`${expected} rows were sent, ${rows} are in`);
}
