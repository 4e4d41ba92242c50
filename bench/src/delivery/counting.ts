/** Measures one consumer that counts: what it takes in at the most, what it costs while it keeps up, and its catch-up. */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import type { Figures, Message, Way } from './contestant.ts';
import type { Relay } from './relay.ts';
import type { Writer } from './writer.ts';

/** So that the compiler has seen the code, in batches as live and in bulk as held back. */
const WARM_UP = 50_000;
const PER_COMMIT = 1_000;

export interface LiveFigures {
  /** All notifications waited already. */
  readonly backlog: Figures;
  /** They come as they are inserted, a thousand in each commit. */
  readonly paced: Figures;
}

/** A turn of a library that listens. */
export async function measureLive(
  way: Way,
  { writer, relay, signals, signal }: { writer: Writer; relay: Relay; signals: number; signal: AbortSignal },
): Promise<LiveFigures> {
  await writer.empty();
  const consumer = await Contestant.start(way, relay.url, signal);
  const paced = async (count: number) => {
    await consumer.order(count);
    return consumer.figures(() => writer.insert(count, { perCommit: PER_COMMIT }));
  };
  const backlog = async (count: number, last: string) => {
    await consumer.order(count);
    await relay.fill(consumer.process, last, () => writer.insert(count, { last }));
    return consumer.figures(async () => relay.release(consumer.process));
  };
  await paced(WARM_UP);
  await backlog(WARM_UP, 'last_of_warm_up');
  const figures = { backlog: await backlog(signals, 'last_of_all'), paced: await paced(signals / 2) };
  await consumer.stop();
  return figures;
}

/** A turn of our catch-up, or of a SELECT of the same rows. */
export async function measureCatchUp(
  way: 'pg-signals' | 'SELECT',
  { writer, url, rows, signal }: { writer: Writer; url: string; rows: number; signal: AbortSignal },
): Promise<Figures> {
  const consumer = await Contestant.start(way, url, signal);
  const missed = async (count: number) => {
    await writer.empty();
    await writer.insertUnnotified(count);
    await consumer.order(count);
    // Only a listener that has lost its connection looks for rows that nobody told it of.
    return consumer.figures(async () => (way === 'SELECT' ? consumer.select() : writer.cut('pg-signals')));
  };
  await missed(WARM_UP);
  const figures = await missed(rows);
  await consumer.stop();
  return figures;
}

class Contestant {
  readonly process: ChildProcess;
  readonly #signal: AbortSignal;

  private constructor(child: ChildProcess, signal: AbortSignal) {
    this.process = child;
    this.#signal = signal;
  }

  static async start(way: Way, databaseUrl: string, signal: AbortSignal): Promise<Contestant> {
    const child = fork(path.join(import.meta.dirname, 'contestant.ts'), [way], {
      env: { ...process.env, DATABASE_URL: databaseUrl },
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
    child.on('exit', (code) => {
      if (code) child.emit('error', new Error(`the consumer with ${way} ended with code ${code}`));
    });
    const contestant = new Contestant(child, signal);
    await contestant.#said();
    return contestant;
  }

  /** Makes it count its next `signals` signals. */
  async order(signals: number): Promise<void> {
    this.process.send(signals);
    await this.#said();
  }

  /** Makes the one with SELECT send it. */
  select(): void {
    this.process.send('select');
  }

  /** Its figures for what was ordered, which `cause` makes it take in. */
  async figures(cause: () => Promise<void>): Promise<Figures> {
    const [figures] = await Promise.all([this.#said(), cause()]);
    return figures as Figures;
  }

  async stop(): Promise<void> {
    const ended = once(this.process, 'exit', { signal: this.#signal });
    this.process.disconnect();
    await ended;
  }

  async #said(): Promise<Message> {
    const [message] = await once(this.process, 'message', { signal: this.#signal });
    return message as Message;
  }
}
