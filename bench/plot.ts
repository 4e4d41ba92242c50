/** `node bench/plot.ts`: requests/s over connections as `docs/ingest.svg`, from the results of `bench/ingest.ts`. */
import { readFileSync, writeFileSync } from 'node:fs';
import { type EChartsOption, init } from 'echarts';
import type { Load } from './src/ingest/load.ts';
import { figure } from './src/table.ts';

const results = readFileSync(new URL('results/ingest.json', import.meta.url), 'utf8');
const { connections } = (JSON.parse(results) as { load: Load }).load;

const TITLE = 'POST /ingest, one signal a request';
/** Okabe and Ito: distinguishable with the common colour-vision deficiencies. */
const COLOURS = ['#0072b2', '#009e73', '#a0568c', '#b36b00', '#c44500'];
const LINES = ['solid', 'dashed', 'dotted', 'solid', 'dashed'] as const;

const options: EChartsOption = {
  animation: false,
  color: COLOURS,
  backgroundColor: '#ffffff', // so that it is as readable on a dark page
  textStyle: { fontFamily: "system-ui, -apple-system, 'Segoe UI', sans-serif" },
  title: { text: TITLE, left: 60, top: 8, textStyle: { fontSize: 16 } },
  grid: { left: 70, right: 260, top: 70, bottom: 50 },
  xAxis: { type: 'log', logBase: 4, name: 'connections', nameLocation: 'middle', nameGap: 30 },
  yAxis: {
    type: 'log',
    name: 'requests/s',
    axisLabel: { formatter: figure },
  },
  series: Object.keys(connections[1]!).map((producer, i) => ({
    type: 'line',
    name: producer,
    data: Object.entries(connections).map(([count, rows]) => [Number(count), rows[producer]!['requests/s']!]),
    lineStyle: { width: producer === 'ours' ? 4 : 2, type: LINES[i]! },
    symbol: 'circle',
    symbolSize: producer === 'ours' ? 9 : 6,
    endLabel: {
      show: true,
      color: COLOURS[i]!,
      fontWeight: producer === 'ours' ? 'bold' : 'normal',
      formatter: ({ value }) => `${producer} ${figure((value as number[])[1])}`,
    },
    labelLayout: { moveOverlap: 'shiftY' },
  })),
};
const chart = init(null, null, { renderer: 'svg', ssr: true, width: 820, height: 440 });
chart.setOption(options);
const svg = chart
  .renderToSVGString()
  .replace('<svg ', `<svg role="img" aria-label="${TITLE}" `)
  .replace(/<style.*<\/style>\n/s, ''); // rules for a pointer, which an image never sees
writeFileSync(new URL('../docs/ingest.svg', import.meta.url), `${svg}\n`);
chart.dispose(); // its timer would keep Node running
