/** A program that subscribes, and says how many signals it received when it is asked: `node subscriberProcess.ts <broker> <url>`. */
import { brokerClient } from './client.ts';
import type { BrokerName } from './names.ts';

const [broker, url] = process.argv.slice(2) as [BrokerName, string];
let received = 0;
await (await brokerClient(broker)).subscribe(url, ({ signal_name }) => {
  if (signal_name === 'test_signal') received++;
});
process.on('message', () => process.send!(received));
process.send!('ready');
