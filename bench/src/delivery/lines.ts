/** What a line of the log costs, without a database: `node lines.ts <way> <lines>` writes them to standard output. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { createLogger } from '@pg-signals/runtime';
import winston from 'winston';

export type LineWay = 'winston, Console transport' | 'winston, Stream transport' | 'createLogger' | 'no logger';

/** As many as a read of 64 kB brings. */
const LINES_PER_TURN = 400;

interface Fields {
  id: number;
  timestamp: string;
  signal_name: string;
  signal_value: number;
}

const textFormat = winston.format.printf(({ level, message, id, timestamp, signal_name, signal_value }) => {
  const fields = `id=${id} timestamp=${timestamp} signal_name=${signal_name} signal_value=${signal_value}`;
  return `${new Date().toISOString()} ${level.toUpperCase()} ${message} ${fields}`;
});

function throughWinston(transport: winston.transport): (fields: Fields) => void {
  const logger = winston.createLogger({ level: 'info', format: textFormat, transports: [transport] });
  return (fields) => logger.info('notification received', fields);
}

const ways: Record<LineWay, () => (fields: Fields) => void> = {
  'winston, Console transport': () => throughWinston(new winston.transports.Console()),
  'winston, Stream transport': () => throughWinston(new winston.transports.Stream({ stream: process.stdout })),
  createLogger() {
    const logger = createLogger();
    return (fields) => logger.info('notification received', fields);
  },
  'no logger'() {
    let lines = '';
    return ({ id, timestamp, signal_name, signal_value }) => {
      if (lines === '') {
        setImmediate(() => {
          process.stdout.write(lines);
          lines = '';
        });
      }
      const fields = `id=${id} timestamp=${timestamp} signal_name=${signal_name} signal_value=${signal_value}`;
      lines += `${new Date().toISOString()} INFO notification received ${fields}\n`;
    };
  },
};

const [way, lines] = process.argv.slice(2);
const log = ways[way as LineWay]();
const write = async (count: number) => {
  for (let id = 1; id <= count; id++) {
    log({ id, timestamp: '2026-04-02T16:23:17.123456+00:00', signal_name: 'test_signal', signal_value: id / 7 });
    if (id % LINES_PER_TURN === 0) await nextTurn();
  }
};
await write(50_000);
const before = process.cpuUsage();
await write(Number(lines));
const { user, system } = process.cpuUsage(before);
process.send!((user + system) / Number(lines)); // µs a line
process.disconnect();
