/** `node bench/plot.ts`: requests/s over connections as `docs/ingest.svg`, from the results that `bench/ingest.ts` left. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { IngestResults } from './src/ingestResults.ts';
import { plotLines } from './src/linePlot.ts';
import { PRODUCERS, type ProducerName } from './src/producers.ts';

const { load } = JSON.parse(readFileSync(new URL('results/ingest.json', import.meta.url), 'utf8')) as IngestResults;

const lines = (Object.keys(PRODUCERS) as ProducerName[]).map((name) => ({
  name: PRODUCERS[name],
  emphasis: name === 'ours',
  points: load.points
    .filter(({ producer }) => producer === name)
    .map(({ connections, requestsPerSecond }) => ({ x: connections, y: requestsPerSecond })),
}));
const svg = plotLines({
  title: 'POST /ingest, one signal a request',
  xLabel: 'connections',
  yLabel: 'requests/s',
  lines: lines.filter(({ points }) => points.length > 0),
});
writeFileSync(new URL('../docs/ingest.svg', import.meta.url), svg);
