/** `node bench/readme.ts`: puts the results that `bench/ingest.ts` left into `bench/README.md`, as it printed them. */
import { readFileSync, writeFileSync } from 'node:fs';
import { ingestReport } from './src/ingestReport.ts';
import type { IngestResults } from './src/ingestResults.ts';

const BEGIN = '<!-- printed by bench/ingest.ts, put here by bench/readme.ts -->';
const END = '<!-- end -->';

const results = JSON.parse(readFileSync(new URL('results/ingest.json', import.meta.url), 'utf8')) as IngestResults;
const readme = new URL('README.md', import.meta.url);
const text = readFileSync(readme, 'utf8');
const [from, to] = [text.indexOf(BEGIN) + BEGIN.length, text.indexOf(END)];
if (from < BEGIN.length || to < from) throw new Error(`bench/README.md has no place for it: ${BEGIN} … ${END}`);
writeFileSync(readme, `${text.slice(0, from)}\n\`\`\`\n${ingestReport(results)}\n\`\`\`\n${text.slice(to)}`);
