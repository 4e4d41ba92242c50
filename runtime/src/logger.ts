/** The log of a service: a line for people, or the same fields as JSON for machines. */
import { MESSAGE } from 'triple-beam';
import winston from 'winston';
import { BatchedStream } from './batchedStream.ts';

export type Logger = winston.Logger;

export interface LoggerOptions {
  level?: string;
  format?: 'text' | 'json';
  /** Takes the finished lines; standard output unless given. */
  write?: (lines: string) => void;
}

/**
 * A winston logger. Lines written in one turn of the event loop leave in one write, at its end; what is still held when
 * the process exits is written then.
 *
 * Passwords in URLs never reach the output, in whichever field they come.
 */
export function createLogger({ level = 'info', format = 'text', write }: LoggerOptions = {}): Logger {
  return winston.createLogger({
    level,
    format: format === 'json' ? jsonLine() : textLine(),
    transports: [new winston.transports.Stream({ stream: new BatchedStream(write), eol: '\n' })],
  });
}

type Entry = winston.Logform.TransformableInfo;

const textLine = winston.format((entry) => {
  const { level, message, ...fields } = entry;
  let line = `${new Date().toISOString()} ${level.toUpperCase()} ${message}`;
  for (const name in fields) line += ` ${name}=${inText(fields[name])}`;
  return finish(entry, line);
});

const jsonLine = winston.format((entry) => {
  const { level, message, ...fields } = entry;
  return finish(
    entry,
    JSON.stringify({ timestamp: new Date().toISOString(), level, message, ...fields }, errorsInJson),
  );
});

function finish(entry: Entry, line: string): Entry {
  entry[MESSAGE] = line.includes('://') ? redact(line) : line;
  return entry;
}

/** Takes the password out of every URL in a text. */
export function redact(text: string): string {
  return text.replace(/(\w+:\/\/[^\s:/@]*):[^\s/]*@/g, '$1:***@');
}

function inText(value: unknown): string {
  if (typeof value === 'string') return /^[^\s"=]+$/.test(value) ? value : JSON.stringify(value);
  if (value instanceof Error) return JSON.stringify(value.stack ?? value.message);
  if (typeof value === 'object' && value !== null) return JSON.stringify(value, errorsInJson);
  return String(value);
}

/** An `Error` has no enumerable fields of its own: JSON would show `{}`. */
function errorsInJson(_key: string, value: unknown): unknown {
  if (typeof value === 'bigint') return String(value);
  return value instanceof Error ? { message: value.message, stack: value.stack } : value;
}
