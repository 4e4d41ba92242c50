/** The limit of the server: `node:http` that answers as the producer would, with no database behind it. */
import { createServer } from 'node:http';

const body = JSON.stringify({
  id: 1_234_567,
  timestamp: '2026-04-02T16:23:17.123456+00:00',
  signal_name: 'test_signal',
  signal_value: 0.8444218515250481,
  attributes: {},
});

createServer((request, response) => {
  request.resume();
  response.writeHead(200, ['Content-Type', 'application/json', 'Content-Length', String(Buffer.byteLength(body))]);
  response.end(body);
}).listen(Number(process.env.PORT), '127.0.0.1');
