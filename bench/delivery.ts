/**
 * How fast one consumer receives, logs and catches up, beside the libraries that people would use instead.
 *
 * The server is slower than any of them, so the notifications wait when the clock starts: while the consumer's process is
 * suspended, a relay holds back what PostgreSQL sends for one transaction. The bytes are the server's own, in its order,
 * and the server has nothing left to do, so it does not compete for the cores.
 */
import { startDatabase } from './src/database.ts';
import { measureCatchUp, measureCounting } from './src/delivery/counting.ts';
import { measureLogging, measureLogLine } from './src/delivery/logging.ts';
import { startRelay } from './src/delivery/relay.ts';
import { keep, print, printRun } from './src/report.ts';
import { ROUNDS } from './src/statistics.ts';
import { aims } from './src/table.ts';

await using database = await startDatabase({ settings: { autovacuum: 'off' } });
using relay = await startRelay(database.url);
printRun(database, `medians of ${ROUNDS} rounds`);
const counting = await measureCounting(database, relay);
const logging = await measureLogging(database, relay);
await measureLogLine();
const catchUp = await measureCatchUp(database);
print(aims([...counting, ...logging, ...catchUp]));
keep('delivery');
