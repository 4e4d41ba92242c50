/** Lanes that come and go while a read is on its way. */
import { createPool, createQuery } from '@pg-signals/db';
import { createTestDatabase } from '@pg-signals/local/testing';
import { expect, onTestFinished, test } from 'vitest';
import { LaneReading } from '../../src/group/laneReading.ts';
import { Lanes } from '../../src/group/lanes.ts';
import { signalsTable } from '../../src/index.ts';
import type { FeedRow, FeedTable } from '../../src/listen/feedTable.ts';
import { takeDurableSnapshot } from '../../src/listen/snapshot.ts';

test('of lanes that were acquired together, those that stay are read though others are given away meanwhile', async () => {
  const database = await createTestDatabase();
  const pool = createPool({ connectionString: database.url, application_name: 'lanes', max: 2 });
  onTestFinished(async () => {
    await pool.end();
    await database.drop();
  });
  const query = createQuery(pool, 5_000);
  await query(`INSERT INTO signals (signal_name, signal_value) SELECT 'test', n FROM generate_series(1, 4) AS n`);
  const delivered: number[] = [];
  const reading: LaneReading = new LaneReading({
    query,
    table: signalsTable as unknown as FeedTable<FeedRow>,
    readTimeoutMs: 5_000,
    lanes: new Lanes(2),
    suspectRows: 0,
    // Between the snapshot and the read.
    checkServer: async () => reading.release(new Set([1]), []),
    onProgress() {},
    async deliver(source) {
      for (let item = source.next(); item !== undefined; item = source.next()) delivered.push(JSON.parse(item).id);
    },
  });
  reading.acquire([{ lanes: [0, 1], at: '3:3:', takenAt: Date.now() }]);
  await reading.readTo(await takeDurableSnapshot(query), new AbortController().signal);
  expect(delivered).toEqual([2, 4]);
  expect(reading.isLevel).toBe(true);
  expect(reading.stored([]).released.map(({ lanes }) => lanes)).toEqual([[1]]);
});
