/** The command line of `npm run send`. */
import { parseArgs } from 'node:util';
import { localUrl } from '@pg-signals/runtime/http-url';
import { isKey } from 'pg-signals';
import { readTokens, TOKENS_EXPECTED } from '../tokens.ts';

export const USAGE = `Sends signals to a producer.

  npm run send -- --name temperature --value 21.5 [--timestamp 2026-04-02T16:23:17Z] [--attributes '{"room":"kitchen"}']
  npm run send -- --file readings.ndjson          one signal per line; - reads standard input

  --url URL       the producer's address (that of HOST and PORT: http://localhost:8080/ingest)
  --id TEXT       a second run with the same id and the same lines inserts nothing twice. For a file the default is
                  its path, size and time of change; for standard input a random one, which is printed.
  --batch N       lines per request (5000)
  --attempts N    how often a request is sent until it is answered (30: about two minutes of waiting)
  --help

Where the producer asks for a token, set INGEST_TOKEN in the environment or in .env: the first one in it is sent.
`;

export interface SendOptions {
  url: string;
  batch: number;
  attempts: number;
  id: string | undefined;
  /** `Authorization`, where the producer asks for a token. */
  headers: Record<string, string>;
  /** One signal, or a file of them. */
  what: { signal: unknown } | { file: string };
}

/** The command line is wrong; the message says how. */
export class UsageError extends Error {
  override name = 'UsageError';
}

/**
 * Reads the command line.
 *
 * @returns undefined for --help.
 * @throws {UsageError} that says what is wrong.
 */
export function readOptions(args: string[], environment = process.env): SendOptions | undefined {
  const { values } = parse(args);
  if (values.help) return undefined;
  const url = values.url ?? `${localUrl(environment.HOST, environment.PORT || 8080)}/ingest`;
  if (!/^https?:\/\//.test(url) || !URL.canParse(url)) {
    throw new UsageError('--url: expected http://host:port/ingest');
  }
  const { username, password } = new URL(url);
  if (username || password) throw new UsageError('--url: expected no user and password in it');
  const batch = wholeNumber('batch', values.batch ?? '5000');
  const attempts = wholeNumber('attempts', values.attempts ?? '30');
  if (values.id !== undefined && !isKey(values.id)) {
    throw new UsageError('--id: expected 1 to 255 visible ASCII characters');
  }
  const tokens = readTokens(environment.INGEST_TOKEN ?? '');
  if (!tokens) throw new UsageError(`INGEST_TOKEN: ${TOKENS_EXPECTED}`);
  const headers: Record<string, string> = tokens[0] ? { Authorization: `Bearer ${tokens[0]}` } : {};
  const common = { url, batch, attempts, id: values.id, headers };
  const { file, name, value } = values;
  if (file !== undefined) {
    for (const other of ['name', 'value', 'timestamp', 'attributes'] as const) {
      if (values[other] !== undefined)
        throw new UsageError(`--${other}: expected with --name and --value, not with --file`);
    }
    return { ...common, what: { file } };
  }
  if (name === undefined || value === undefined) throw new UsageError('expected --name and --value, or --file');
  return { ...common, what: { signal: oneSignal(name, value, values.timestamp, values.attributes) } };
}

function wholeNumber(option: string, text: string): number {
  if (/^[1-9]\d{0,8}$/.test(text)) return Number(text);
  throw new UsageError(`--${option}: expected a whole number of at least 1, got ${text}`);
}

function parse(args: string[]) {
  const text = { type: 'string' } as const;
  try {
    return parseArgs({
      args: joinNegative(args),
      options: {
        name: text,
        value: text,
        timestamp: text,
        attributes: text,
        file: text,
        url: text,
        id: text,
        batch: text,
        attempts: text,
        help: { type: 'boolean' },
      },
    });
  } catch (error) {
    throw new UsageError((error as Error).message);
  }
}

/** parseArgs takes the -3 of `--value -3` for an option; that of `--value=-3` it does not. */
function joinNegative(args: string[]): string[] {
  return args.flatMap((arg, index) => {
    if (args[index - 1] === '--value' && arg.startsWith('-')) return [];
    return arg === '--value' && args[index + 1]?.startsWith('-') ? [`--value=${args[index + 1]}`] : [arg];
  });
}

/** Checks only what JSON can't carry: the producer checks each field. */
function oneSignal(signal_name: string, value: string, timestamp?: string, attributes?: string): unknown {
  const signal_value = value.trim() === '' ? Number.NaN : Number(value);
  if (!Number.isFinite(signal_value)) throw new UsageError(`--value: expected a number, got ${value}`);
  try {
    return { signal_name, signal_value, timestamp, attributes: attributes && JSON.parse(attributes) };
  } catch {
    throw new UsageError(`--attributes: expected a JSON object, got ${attributes}`);
  }
}
