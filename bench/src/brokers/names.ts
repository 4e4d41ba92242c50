/** The brokers of the bench, and what each promises when it has acknowledged a message. */
export const BROKERS = {
  pgSignals: {
    name: 'pg-signals, createPublisher',
    promise: 'committed: flushed to the disk',
  },
  redisAlways: {
    name: 'Redis Streams, appendfsync always',
    promise: 'in the log: flushed to the disk',
  },
  redisEverySecond: {
    name: 'Redis Streams, appendfsync everysec',
    promise: 'in the log: flushed every second, so a machine that fails loses about the last one',
  },
  jetStream: {
    name: 'NATS JetStream, file storage',
    promise: 'in a file: flushed every 2 minutes, so a machine that fails loses what came since',
  },
} as const;
export type BrokerName = keyof typeof BROKERS;
