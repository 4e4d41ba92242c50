/** What `bench/ingest.ts` measured, as it is kept in `bench/results/ingest.json`: of every figure the median of its rounds. */
import type { BrokerName } from './brokers/names.ts';
import type { ProducerName } from './producers.ts';
import { median } from './statistics.ts';

/** One producer at one number of connections. */
export interface LoadPoint {
  producer: ProducerName;
  connections: number;
  requestsPerSecond: number;
  /** ms. */
  p50: number;
  p99: number;
  /** Committed, and received by each of the two consumers, over all rounds together; 0 without a database. */
  rows: number;
  /** From the end of the load until both consumers had received all, in s: how far they were behind. */
  levelAfter: number;
  /** Cores in use while the load lasted; of the server all backends together. */
  cores: { producer: number; server: number; consumers: [number, number]; load: number };
}

export interface LoadTable {
  rounds: number;
  secondsPerPoint: number;
  points: LoadPoint[];
  /** The most that our producer (one process, hot path) ever had in memory, in MB. */
  peakMB: number;
  /** What one INSERT alone takes on this disk, from the query to its answer, in ms. */
  insertMs: number;
}

export interface Quantiles {
  p50: number;
  p99: number;
}

/** From POST to the line in the consumer's log, one at a time, in ms. */
export interface IdleTable {
  rounds: number;
  samples: number;
  ours: Quantiles;
  go?: Quantiles;
}

export type BulkWay = 'ndjson' | 'insert' | 'copy';
export interface BulkTable {
  rounds: number;
  rows: number;
  /** Rows/s until the answer, with nobody listening and with two consumers attached. */
  alone: Record<BulkWay, number>;
  attached: Record<BulkWay, number>;
  peakMB: number;
}

export interface BrokerPoint {
  broker: BrokerName;
  version: string;
  publishedPerSecond: number;
  /** From publish to its acknowledgement, in ms. */
  p50: number;
  p99: number;
  /** Acknowledged, and received by each of the two subscribers, over all rounds together. */
  messages: number;
  cores: { publisher: number; server: number; subscribers: [number, number] };
}
export interface BrokerTable {
  rounds: number;
  secondsPerPoint: number;
  inFlight: number;
  points: BrokerPoint[];
}

export interface IngestResults {
  /** Versions and machine. */
  run: string;
  load: LoadTable;
  slow?: LoadTable;
  idle: IdleTable;
  bulk: BulkTable;
  brokers: BrokerTable;
}

/** The median of one figure over the rounds. */
export const medianOf = <T>(rounds: readonly T[], figure: (round: T) => number): number => median(rounds.map(figure));
