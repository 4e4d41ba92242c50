/** Writes the signals that consumers are measured with. */
import pg from 'pg';

export class Writer {
  readonly #client: pg.Client;

  private constructor(client: pg.Client) {
    this.#client = client;
  }

  static async connect(databaseUrl: string): Promise<Writer> {
    const client = new pg.Client({ connectionString: databaseUrl, application_name: 'bench writer' });
    await client.connect();
    return new Writer(client);
  }

  /** Inserts `rows` signals, `perCommit` in each transaction; the last one's name is `last`. */
  async insert(rows: number, { perCommit = rows, last = 'last' } = {}): Promise<void> {
    for (let left = rows - 1; left > 0; left -= perCommit) await this.#insert(Math.min(perCommit, left), 'test_signal');
    await this.#insert(1, last);
  }

  /** Inserts `rows` signals that nobody is notified of, as if all of them had come while a consumer was away. */
  async insertUnnotified(rows: number): Promise<void> {
    await this.#client.query('SET session_replication_role = replica'); // triggers do not fire
    await this.#insert(rows, 'test_signal');
    await this.#client.query('SET session_replication_role = origin');
  }

  async empty(): Promise<void> {
    await this.#client.query('TRUNCATE signals');
  }

  /** Makes the planner and the visibility map know the table as it is, as autovacuum would in time. */
  async settle(): Promise<void> {
    await this.#client.query('VACUUM ANALYZE signals');
  }

  /** Ends the backend that listens for an application. */
  async cut(applicationName: string): Promise<void> {
    await this.#client.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'`,
      [applicationName],
    );
  }

  async serverVersion(): Promise<string> {
    const { rows } = await this.#client.query<{ server_version: string }>('SHOW server_version');
    return rows[0]!.server_version;
  }

  end(): Promise<void> {
    return this.#client.end();
  }

  async #insert(rows: number, name: string): Promise<void> {
    await this.#client.query(
      'INSERT INTO signals (signal_name, signal_value) SELECT $1, random() FROM generate_series(1, $2::int)',
      [name, rows],
    );
  }
}
