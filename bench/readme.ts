/** `node bench/readme.ts`: puts what the programs printed, kept in `results/`, between the markers in `bench/README.md`. */
import { readFileSync, writeFileSync } from 'node:fs';

const readme = new URL('README.md', import.meta.url);
let text = readFileSync(readme, 'utf8');
for (const name of ['latency', 'delivery', 'groups', 'ingest']) {
  const [begin, end] = [`<!-- printed by bench/${name}.ts -->`, '<!-- end -->'];
  const from = text.indexOf(begin) + begin.length;
  const to = text.indexOf(end, from);
  if (from < begin.length || to < 0) throw new Error(`bench/README.md has no place for it: ${begin} … ${end}`);
  const printed = readFileSync(new URL(`results/${name}.txt`, import.meta.url), 'utf8');
  text = `${text.slice(0, from)}\n\`\`\`\n${printed}\`\`\`\n${text.slice(to)}`;
}
writeFileSync(readme, text);
