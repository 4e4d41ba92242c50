/** Runs several producer processes on one port: starts them, replaces those that die, stops them all. */
import cluster, { type Worker } from 'node:cluster';
import { on, once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { backoff } from '@pg-signals/db';
import { httpUrl, type Logger, type Service } from '@pg-signals/runtime';
import type { ProducerSettings } from '../settings.ts';
import { gatherWorkerMetrics } from './workerMetrics.ts';

/**
 * Starts `INGEST_WORKERS` processes of this program, which share its port; resolves when all listen. A worker that dies is
 * replaced at once, and with backoff where its replacement dies before it listens.
 *
 * @throws {Error} when a worker ends before it listens; its log says why.
 */
export async function startWorkers(settings: ProducerSettings, logger: Logger): Promise<Service> {
  const gathering = gatherWorkerMetrics();
  const workers = new Map<number, Worker>();
  let stopping = false;

  /** Resolves with the port when the worker listens. */
  async function start(place: number): Promise<number> {
    const worker = cluster.fork();
    workers.set(place, worker);
    const listening = listeningOn(worker, settings.HEALTH_PORT === undefined ? 1 : 2);
    const ended = once(worker, 'exit').then(([code, signal]) => {
      throw new Error(`worker ${place} ended before it listened, with ${signal ?? `code ${code}`}`);
    });
    const port = await Promise.race([listening, ended]);
    ended.catch(() => replace(place, worker));
    return port;
  }

  async function replace(place: number, { process }: Worker): Promise<void> {
    const { exitCode, signalCode } = process;
    for (let attempt = 1; !stopping; attempt++) {
      const delay = attempt === 1 ? 0 : backoff(attempt - 1);
      logger.error('Worker ended, starting another', { worker: place, exitCode, signalCode, delay_ms: delay, attempt });
      await sleep(delay, undefined, { ref: false });
      if (stopping) return;
      try {
        await start(place);
        return;
      } catch (error) {
        logger.error('Worker did not start', { worker: place, reason: (error as Error).message });
      }
    }
  }

  async function stop(): Promise<void> {
    stopping = true;
    await Promise.all([...workers.values()].map(stopWorker));
    gathering.stop();
  }

  const places = Array.from({ length: settings.INGEST_WORKERS }, (_, index) => index + 1);
  let port: number;
  try {
    // The first one alone: with PORT=0 it takes a free port, which the others share.
    port = await start(places[0]!);
    await Promise.all(places.slice(1).map(start));
  } catch (error) {
    await stop();
    throw error;
  }
  const url = httpUrl(settings.HOST, port);
  logger.info('Workers listen', { url, workers: places.length });
  let stopped: Promise<void> | undefined;
  return { url, stop: () => (stopped ??= stop()) };
}

/** The port of a worker, which is the last of so many that it opens. */
async function listeningOn(worker: Worker, ports: number): Promise<number> {
  let left = ports;
  for await (const [address] of on(worker, 'listening', { close: ['exit'] })) {
    if (--left === 0) return (address as { port: number }).port;
  }
  return new Promise(() => {}); // it ended, which the caller notices
}

async function stopWorker(worker: Worker): Promise<void> {
  if (worker.isDead()) return;
  const exited = once(worker, 'exit');
  // No message: one that has not started yet would not hear it.
  worker.process.kill('SIGTERM');
  await exited;
}
