/** The results of `bench/ingest.ts` as text. */
import { BROKERS } from './brokers/names.ts';
import { judgeAims } from './ingestAims.ts';
import type { BrokerTable, BulkTable, BulkWay, IdleTable, IngestResults, LoadTable } from './ingestResults.ts';
import { PRODUCERS } from './producers.ts';
import { table } from './report.ts';

export function ingestReport(results: IngestResults): string {
  const { run, load, slow, idle, bulk, brokers } = results;
  const parts = [
    run,
    `One signal a request, two consumers attached; ${ofRounds(load)}\nOne INSERT alone takes ${load.insertMs.toFixed(2)} ms`,
    ...loadTables(load),
  ];
  if (slow) {
    const head = `The same on a disk that takes 2 ms longer a flush; ${ofRounds(slow)}`;
    parts.push(`${head}\nOne INSERT alone takes ${slow.insertMs.toFixed(2)} ms`, ...loadTables(slow));
  }
  parts.push(memoryText(results), idleText(idle), bulkText(bulk), ...brokerTexts(brokers), aimsText(results));
  return parts.join('\n\n');
}

const ofRounds = ({ rounds, secondsPerPoint }: { rounds: number; secondsPerPoint: number }) =>
  `medians of ${rounds} rounds of ${secondsPerPoint} s`;
const whole = (value: number) => Math.round(value).toLocaleString('en-US');
const ms = (value: number) => value.toFixed(2);
const cores = (value: number) => value.toFixed(2);
const both = (values: readonly [number, number]) => values.map(cores).join(' + ');

function loadTables({ points }: LoadTable): string[] {
  return [...new Set(points.map(({ connections }) => connections))].map((count) =>
    table([
      [
        `${count} connection${count === 1 ? '' : 's'}`,
        ...['requests/s', 'p50 ms', 'p99 ms', 'rows = received by both', 'after s'],
        ...['cores: producer', 'server', 'consumers', 'load'],
      ],
      ...points
        .filter(({ connections }) => connections === count)
        .map((point) => [
          PRODUCERS[point.producer],
          whole(point.requestsPerSecond),
          ms(point.p50),
          ms(point.p99),
          ...(point.rows === 0 ? ['-', '-'] : [whole(point.rows), point.levelAfter.toFixed(2)]),
          ...[
            cores(point.cores.producer),
            cores(point.cores.server),
            both(point.cores.consumers),
            cores(point.cores.load),
          ],
        ]),
    ]),
  );
}

function memoryText({ load, slow, bulk }: IngestResults): string {
  const kinds = [`${whole(load.peakMB)} with one signal a request`, `${whole(bulk.peakMB)} with NDJSON`];
  if (slow) kinds.push(`${whole(slow.peakMB)} on the slow disk`);
  return `The most memory that our producer ever took (one process, hot path), in MB: ${kinds.join(', ')}`;
}

function idleText({ rounds, samples, ours, go }: IdleTable): string {
  return `One signal at a time, from POST to the line in the consumer's log; medians of ${rounds} rounds of ${samples}\n\n${table(
    [
      ['ms', 'p50', 'p99'],
      ['ours', ms(ours.p50), ms(ours.p99)],
      ...(go ? [['Go original, its consumer', ms(go.p50), ms(go.p99)]] : []),
    ],
  )}`;
}

function bulkText({ rounds, rows, alone, attached }: BulkTable): string {
  const row = (name: string, way: BulkWay) => [name, whole(alone[way]), whole(attached[way])];
  return `${whole(rows)} signals at once, from the first byte to the answer; medians of ${rounds} rounds\n\n${table([
    ['rows/s', 'nobody listens', 'two consumers attached'],
    row('POST /ingest, application/x-ndjson', 'ndjson'),
    row('the same INSERT straight from pg, 1,000 rows each', 'insert'),
    row('COPY, one transaction', 'copy'),
  ])}`;
}

function brokerTexts({ inFlight, points, ...rounds }: BrokerTable): string[] {
  return [
    `Published from a program, ${inFlight} in flight, to two subscribers; ${ofRounds(rounds)}`,
    table([
      [
        '',
        'published/s',
        'p50 ms',
        'p99 ms',
        'messages = received by both',
        'cores: publisher',
        'server',
        'subscribers',
      ],
      ...points.map((point) => [
        BROKERS[point.broker].name,
        whole(point.publishedPerSecond),
        ms(point.p50),
        ms(point.p99),
        whole(point.messages),
        ...[cores(point.cores.publisher), cores(point.cores.server), both(point.cores.subscribers)],
      ]),
    ]),
    `What an acknowledgement promises:\n${points
      .map(({ broker, version }) => `- ${BROKERS[broker].name} (${version}): ${BROKERS[broker].promise}`)
      .join('\n')}`,
  ];
}

function aimsText(results: IngestResults): string {
  const words = (reached: boolean | undefined) => (reached === undefined ? '-' : reached ? 'reached' : 'missed');
  const lines = judgeAims(results).map(
    ({ aim, measured, reached }) => `${words(reached).padEnd(7)}   ${aim}: ${measured}`,
  );
  return ['Aims', ...lines].join('\n');
}
