/** Figures, tables and lists of aims as text. */

/** About three digits: 27,681 or 13.8 or 0.36; whole numbers as they are. */
export function figure(value: number | undefined): string {
  if (value === undefined) return '';
  const decimals = Number.isInteger(value) || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return value.toLocaleString('en-US', { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

/** A line for each row, below the names of its figures. Names start at the left, figures end at the right. */
export function table(head: string, rows: Record<string, Record<string, number | undefined>>): string {
  const columns = [...new Set(Object.values(rows).flatMap((row) => Object.keys(row)))];
  const lines = Object.entries(rows).map(([name, row]) => [name, ...columns.map((column) => figure(row[column]))]);
  lines.unshift([head, ...columns]);
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => line[column]!.length)));
  const pad = (text: string, column: number) =>
    column === 0 ? text.padEnd(widths[0]!) : text.padStart(widths[column]!);
  return lines.map((line) => line.map(pad).join('   ').trimEnd()).join('\n');
}

/** What is to be reached on a machine with two cores; `what` follows the number. A peer that is missing leaves `measured` undefined. */
export type Aim = { what: string; measured: number | undefined } & ({ atLeast: number } | { atMost: number });

export function aims(list: readonly Aim[]): string {
  const lines = list.map((aim) => {
    const { what, measured } = aim;
    const [words, limit] = 'atLeast' in aim ? ['at least', aim.atLeast] : ['at most', aim.atMost];
    if (measured === undefined) return `-         ${words} ${figure(limit)} ${what}: not measured`;
    const reached = 'atLeast' in aim ? measured >= limit : measured <= limit;
    return `${reached ? 'reached' : 'missed '}   ${words} ${figure(limit)} ${what}: ${figure(measured)}`;
  });
  return ['Aims', ...lines].join('\n');
}
