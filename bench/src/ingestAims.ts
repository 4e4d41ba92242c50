/** What ingest was to reach on a machine with two cores, and whether it did. */
import type { IngestResults, LoadTable } from './ingestResults.ts';
import type { ProducerName } from './producers.ts';

export interface Aim {
  aim: string;
  measured: string;
  /** Undefined where what it is compared with was not there. */
  reached: boolean | undefined;
}

export function judgeAims({ load, slow, idle, bulk, brokers }: IngestResults): Aim[] {
  const published = (name: string) => brokers.points.find(({ broker }) => broker === name)?.publishedPerSecond;
  const [redis, jetStream] = [published('redisAlways'), published('jetStream')];
  const ours64 = point(load, 'ours', 64)!;
  const go64 = point(load, 'go', 64);
  const peakMB = Math.max(load.peakMB, slow?.peakMB ?? 0, bulk.peakMB);
  return [
    atLeast(7, 'the Go original at 64 connections', ratio(load, 64, 'go')),
    atLeast(9, 'the Go original at 256 connections', ratio(load, 256, 'go')),
    atLeast(0.8, 'the Go original at 1 connection', ratio(load, 1, 'go')),
    atLeast(0.5, 'node:http without a database at 64', ratio(load, 64, 'bare')),
    below("p99 at 64 below the Go original's p50 there", ours64.p99, go64?.p50, 'ms'),
    atLeast(20, 'the Go original at 64, 2 ms a flush', slow && ratio(slow, 64, 'go')),
    atLeast(50, 'the Go original at 256, 2 ms a flush', slow && ratio(slow, 256, 'go')),
    below(
      "idle POST to callback: p50 below 1.4 x the Go original's",
      idle.ours.p50,
      idle.go && 1.4 * idle.go.p50,
      'ms',
    ),
    below('idle POST to callback: p99 below 2 ms', idle.ours.p99, 2, 'ms'),
    {
      aim: 'NDJSON: 150,000 rows/s',
      measured: `${whole(bulk.alone.ndjson)} with nobody listening, ${whole(bulk.attached.ndjson)} with two consumers`,
      reached: bulk.attached.ndjson >= 150_000,
    },
    ahead('createPublisher ahead of Redis Streams, appendfsync always', published('pgSignals')!, redis),
    ahead('createPublisher ahead of JetStream', published('pgSignals')!, jetStream),
    below("the producer's memory below 200 MB throughout", peakMB, 200, 'MB'),
  ];
}

const whole = (value: number) => Math.round(value).toLocaleString('en-US');

const point = ({ points }: LoadTable, name: ProducerName, connections: number) =>
  points.find((candidate) => candidate.producer === name && candidate.connections === connections);

function ratio(table: LoadTable, connections: number, other: ProducerName): number | undefined {
  const [ours, peer] = [point(table, 'ours', connections), point(table, other, connections)];
  return ours && peer && ours.requestsPerSecond / peer.requestsPerSecond;
}

function atLeast(factor: number, ofWhat: string, measured: number | undefined): Aim {
  return {
    aim: `${factor} x ${ofWhat}`,
    measured: measured === undefined ? 'not measured' : `${measured.toFixed(2)} x`,
    reached: measured === undefined ? undefined : measured >= factor,
  };
}

function below(aim: string, value: number, limit: number | undefined, unit: string): Aim {
  if (limit === undefined) return { aim, measured: 'not measured', reached: undefined };
  return { aim, measured: `${value.toFixed(2)} ${unit}, limit ${limit.toFixed(2)}`, reached: value < limit };
}

function ahead(aim: string, ours: number, theirs: number | undefined): Aim {
  if (theirs === undefined) return { aim, measured: 'not measured', reached: undefined };
  return { aim, measured: `${(ours / theirs).toFixed(2)} x`, reached: ours > theirs };
}
