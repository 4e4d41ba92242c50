/** How figures are printed: what ran, and plain tables. */
import { readFileSync } from 'node:fs';
import os from 'node:os';
import pg from 'pg';

/** One line that says which versions were measured on which machine. */
export async function describeRun(databaseUrl: string): Promise<string> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  const { rows } = await client.query<{ server_version: string }>('SHOW server_version');
  await client.end();
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
    version: string;
  };
  const cpus = os.cpus();
  const memory = Math.round(os.totalmem() / 2 ** 30);
  return [
    `pg-signals ${version}, Node ${process.versions.node}, PostgreSQL ${rows[0]!.server_version},`,
    `${os.type()} ${os.release()}, ${cpus.length} x ${cpus[0]?.model ?? 'unknown CPU'}, ${memory} GiB,`,
    `load ${os.loadavg()[0]!.toFixed(2)} at the start`,
  ].join(' ');
}

/** Rows under a head; the first column is text, the others are figures. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows
    .map((row) =>
      widths
        .map((width, column) => (column === 0 ? (row[0] ?? '').padEnd(width) : (row[column] ?? '').padStart(width)))
        .join('   ')
        .trimEnd(),
    )
    .join('\n');
}
