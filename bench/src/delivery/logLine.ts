/** What a log line costs without a database: `node logLine.ts <way> <lines>` writes them to standard output. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createLogger } from '@pg-signals/runtime';
import winston from 'winston';

/** As many as one read of 64 kB brings. */
const LINES_PER_TURN = 400;

interface Fields {
  id: number;
  timestamp: string;
  signal_name: string;
  signal_value: number;
}

const line = (level: string, { id, timestamp, signal_name, signal_value }: Fields) =>
  `${new Date().toISOString()} ${level} notification received id=${id} timestamp=${timestamp} signal_name=${signal_name} signal_value=${signal_value}`;

function throughWinston(transport: winston.transport): (fields: Fields) => void {
  const format = winston.format.printf((info) => line(info.level.toUpperCase(), info as unknown as Fields));
  const logger = winston.createLogger({ level: 'info', format, transports: [transport] });
  return (fields) => logger.info('notification received', fields);
}

const WAYS = {
  'winston, Console transport': () => throughWinston(new winston.transports.Console()),
  'winston, Stream transport': () => throughWinston(new winston.transports.Stream({ stream: process.stdout })),
  createLogger() {
    const logger = createLogger();
    return (fields: Fields) => logger.info('notification received', fields);
  },
  'no logger'() {
    let lines = '';
    return (fields: Fields) => {
      if (lines === '') {
        setImmediate(() => {
          process.stdout.write(lines);
          lines = '';
        });
      }
      lines += `${line('INFO', fields)}\n`;
    };
  },
};
export type LogWay = keyof typeof WAYS;

const [way, lines] = process.argv.slice(2);
const log = WAYS[way as LogWay]();
async function write(count: number): Promise<void> {
  for (let id = 1; id <= count; id++) {
    log({ id, timestamp: '2026-04-02T16:23:17.123456+00:00', signal_name: 'test_signal', signal_value: id / 7 });
    if (id % LINES_PER_TURN === 0) await nextTurn();
  }
}
await write(50_000);
const before = process.cpuUsage();
await write(Number(lines));
const { user, system } = process.cpuUsage(before);
process.send!((user + system) / Number(lines)); // µs a line
process.disconnect();
