/** A line plot as SVG, both axes logarithmic, each line named at its end; it follows the reader's light or dark. */

export interface PlotLine {
  name: string;
  /** The one that the plot is about; the first line lies on top. */
  emphasis: boolean;
  /** From left to right, all above 0. */
  points: readonly { x: number; y: number }[];
}

export interface Plot {
  title: string;
  xLabel: string;
  yLabel: string;
  lines: readonly PlotLine[];
}

const WIDTH = 820;
const HEIGHT = 440;
const FRAME = { left: 74, right: 530, top: 52, bottom: 386 };
/** Between the baselines of two names. */
const NAME_HEIGHT = 19;

/** Light and dark, told apart with the common colour-vision deficiencies: Okabe and Ito, darkened where it is thin on white. */
const COLOURS = [
  ['#0072b2', '#56b4e9'],
  ['#009e73', '#2fc79b'],
  ['#a0568c', '#d98fc0'],
  ['#b36b00', '#e6a23c'],
  ['#c44500', '#ff7f45'],
  ['#666666', '#a8a8a8'],
] as const;
const DASHES = ['', '7 4', '2 4', '10 4 2 4', '', '4 4'] as const;

export function plotLines({ title, xLabel, yLabel, lines }: Plot): string {
  const xs = [...new Set(lines.flatMap(({ points }) => points.map(({ x }) => x)))].sort((a, b) => a - b);
  const ys = lines.flatMap(({ points }) => points.map(({ y }) => y));
  const x = logScale(xs[0]!, xs.at(-1)!, FRAME.left + 16, FRAME.right);
  const [low, high] = [tickBelow(Math.min(...ys)), tickAbove(Math.max(...ys))];
  const y = logScale(low, high, FRAME.bottom, FRAME.top);
  const names = apart(lines.map(({ points }) => y(points.at(-1)!.y)));

  const grid = ticksWithin(low, high).map(
    (tick) =>
      `<path class="grid" d="M${FRAME.left} ${at(y(tick))}H${FRAME.right}"/>` +
      `<text x="${FRAME.left - 8}" y="${at(y(tick) + 4)}" text-anchor="end">${tick.toLocaleString('en-US')}</text>`,
  );
  const columns = xs.map(
    (tick) => `<text x="${at(x(tick))}" y="${FRAME.bottom + 20}" text-anchor="middle">${tick}</text>`,
  );
  const drawn = lines.map(({ name, emphasis, points }, i) => {
    const path = points.map((point, j) => `${j === 0 ? 'M' : 'L'}${at(x(point.x))} ${at(y(point.y))}`).join('');
    const dots = points.map(
      (point) => `<circle cx="${at(x(point.x))}" cy="${at(y(point.y))}" r="${emphasis ? 4 : 3}"/>`,
    );
    const end = points.at(-1)!;
    return [
      `<g class="line c${i}${emphasis ? ' emphasis' : ''}">`,
      `<path class="stroke" d="${path}"/>${dots.join('')}`,
      `<path class="leader" d="M${at(x(end.x) + 6)} ${at(y(end.y))}L${FRAME.right + 16} ${at(names[i]!)}"/>`,
      `<text x="${FRAME.right + 20}" y="${at(names[i]! + 4)}">${escaped(name)} ${Math.round(end.y).toLocaleString('en-US')}</text>`,
      '</g>',
    ].join('');
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(title)}">
<style>
${styleSheet()}
</style>
<rect class="paper" width="${WIDTH}" height="${HEIGHT}" rx="6"/>
<text class="title" x="${FRAME.left}" y="28">${escaped(title)}</text>
<text x="${FRAME.left}" y="45">${escaped(yLabel)}</text>
<text x="${(FRAME.left + FRAME.right) / 2}" y="${FRAME.bottom + 42}" text-anchor="middle">${escaped(xLabel)}</text>
${[...grid, ...columns, ...drawn.toReversed()].join('\n')}
</svg>
`;
}

const at = (pixels: number) => pixels.toFixed(1);
const escaped = (text: string) => text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

function logScale(from: number, to: number, start: number, end: number): (value: number) => number {
  const span = Math.log(to / from) || 1;
  return (value) => start + ((end - start) * Math.log(value / from)) / span;
}

/** 1, 2, 5, 10, 20, 50 … */
function ticksWithin(low: number, high: number): number[] {
  const ticks: number[] = [];
  for (let decade = 10 ** Math.floor(Math.log10(low)); decade <= high; decade *= 10) {
    ticks.push(...[1, 2, 5].map((step) => step * decade).filter((tick) => tick >= low && tick <= high));
  }
  return ticks;
}
const tickBelow = (value: number) => ticksWithin(value / 10, value).at(-1)!;
const tickAbove = (value: number) => ticksWithin(value, value * 10)[0]!;

/** The same places, moved apart where two names would overlap: from the top down, then back up from the bottom. */
function apart(places: readonly number[]): number[] {
  const order = places.map((_, i) => i).sort((a, b) => places[a]! - places[b]!);
  const moved = [...places];
  let free = FRAME.top;
  for (const i of order) {
    moved[i] = Math.max(moved[i]!, free);
    free = moved[i]! + NAME_HEIGHT;
  }
  free = FRAME.bottom;
  for (const i of order.toReversed()) {
    moved[i] = Math.min(moved[i]!, free);
    free = moved[i]! - NAME_HEIGHT;
  }
  return moved;
}

function styleSheet(): string {
  // Rules for each line rather than a variable, which only browsers know.
  const colours = (shade: 0 | 1) =>
    COLOURS.map(
      ({ [shade]: colour }, i) => `.c${i} path { stroke: ${colour}; } .c${i} circle, .c${i} text { fill: ${colour}; }`,
    ).join('\n');
  return `svg { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; }
text { fill: #444; } .title { fill: #111; font-size: 15px; font-weight: 600; }
.paper { fill: #fff; } .grid { stroke: #ddd; }
.stroke { fill: none; stroke-width: 1.8; } .leader { stroke-width: 0.7; }
.emphasis .stroke { stroke-width: 3.2; } .emphasis text { font-weight: 600; }
${DASHES.map((dash, i) => (dash ? `.c${i} .stroke { stroke-dasharray: ${dash}; }` : '')).join(' ')}
${colours(0)}
@media (prefers-color-scheme: dark) {
text { fill: #bbb; } .title { fill: #eee; } .paper { fill: #16181c; } .grid { stroke: #33363c; }
${colours(1)}
}`;
}
