/** Writes groups as their members store them, for the tests of what reads them. */
import pg from 'pg';
import type { StoredCursor } from '../../src/group/storedCursor.ts';

export interface StoredGroup {
  name: string;
  feed?: string;
  lanes?: number;
  order?: string;
  slot?: boolean;
  free?: StoredCursor[];
}

export interface StoredMember {
  group: string;
  name: string;
  epoch: number;
  cursors: StoredCursor[];
  /** Seconds until its lease ends; negative where it has ended. */
  lease?: number;
  inFlight?: number;
}

export class StoredGroups {
  readonly client: pg.Client;

  private constructor(client: pg.Client) {
    this.client = client;
  }

  static async connect(url: string, application_name = 'test'): Promise<StoredGroups> {
    const client = new pg.Client({ connectionString: url, application_name });
    client.on('error', () => {});
    await client.connect();
    return new StoredGroups(client);
  }

  async group({
    name,
    feed = 'public.signals',
    lanes = 4,
    order,
    slot = false,
    free = [],
  }: StoredGroup): Promise<void> {
    await this.client.query(
      'INSERT INTO signal_groups (name, feed, lanes, order_key, is_slot, free) VALUES ($1, $2, $3, $4, $5, $6::jsonb)',
      [name, feed, lanes, order, slot, JSON.stringify(free)],
    );
  }

  async member({ group, name, epoch, cursors, lease = 60, inFlight = 0 }: StoredMember): Promise<void> {
    await this.client.query(
      `INSERT INTO signal_group_members (group_id, epoch, name, lease_until, cursors, in_flight)
       SELECT id, $2, $3, clock_timestamp() + $4 * interval '1 s', $5::jsonb, $6 FROM signal_groups WHERE name = $1`,
      [group, epoch, name, lease, JSON.stringify(cursors), inFlight],
    );
  }

  async retry(group: string, id: number, { key = null as string | null, due = 'now', lane = 0 } = {}): Promise<void> {
    await this.client.query(
      `INSERT INTO signal_retries (group_id, signal_id, xid, lane, key, attempts, due_at)
       SELECT id, $2, '3', $3, $4, 1, $5 FROM signal_groups WHERE name = $1`,
      [group, id, lane, key, due],
    );
  }

  /** The signal as it is in the table. */
  async deadLetter(group: string, id: number): Promise<void> {
    await this.client.query(
      `INSERT INTO dead_letters (group_name, signal_id, signal, attempts, first_error, last_error)
       SELECT $1, $2, (SELECT to_jsonb(signals) FROM signals WHERE id = $2), 6, 'the first', 'the last'`,
      [group, id],
    );
  }

  /** Inserts signals in one transaction; resolves with their ids. */
  async signals(count: number, attributes: (n: number) => unknown = () => ({})): Promise<number[]> {
    const list = Array.from({ length: count }, (_, n) => JSON.stringify(attributes(n)));
    const { rows } = await this.client.query(
      `INSERT INTO signals (signal_name, signal_value, attributes)
       SELECT 's', 1, attributes FROM unnest($1::jsonb[]) AS attributes RETURNING id`,
      [list],
    );
    return rows.map(({ id }) => Number(id));
  }

  async snapshot(): Promise<string> {
    return (await this.client.query('SELECT pg_current_snapshot()::text AS at')).rows[0].at;
  }

  async xidOf(id: number): Promise<number> {
    return Number((await this.client.query('SELECT xid FROM signals WHERE id = $1', [id])).rows[0].xid);
  }

  /** What a table holds of a group. */
  async rows(sql: string, values: unknown[] = []): Promise<Record<string, unknown>[]> {
    return (await this.client.query(sql, values)).rows;
  }

  /** Resolves when a connection of this name waits for a lock. Asks again and again, since the server gives no event. */
  async untilOneWaits(application: string): Promise<void> {
    const sql = `SELECT FROM pg_stat_activity
      WHERE datname = current_database() AND application_name = $1 AND wait_event_type = 'Lock'`;
    while ((await this.client.query(sql, [application])).rowCount === 0);
  }

  async end(): Promise<void> {
    await this.client.end();
  }
}

/** Lanes from 0 on. */
export const lanesTo = (count: number): number[] => Array.from({ length: count }, (_, lane) => lane);
