import { expect, test } from 'vitest';
import { parseSignal, toUtc } from '../src/signal.ts';

const row = {
  id: 7,
  timestamp: '2026-04-02T16:23:17.123456+00:00',
  signal_name: 'a',
  signal_value: 1,
  attributes: {},
  xid: '745',
};

test('a payload is read as it was written, microseconds included', () => {
  expect(parseSignal(JSON.stringify(row))).toEqual(row);
});

test.each([
  ['2026-04-02T16:23:17+00:00', '2026-04-02T16:23:17+00:00'],
  ['2026-04-02T16:23:17.1+00:00', '2026-04-02T16:23:17.1+00:00'],
  ['2026-04-02T16:23:17.123456Z', '2026-04-02T16:23:17.123456+00:00'],
  ['2026-04-02T18:23:17.123456+02:00', '2026-04-02T16:23:17.123456+00:00'],
  ['2026-01-01T00:00:00.000001+05:30', '2025-12-31T18:30:00.000001+00:00'],
  ['2026-04-02 16:23:17.123456+00', '2026-04-02T16:23:17.123456+00:00'],
  ['0099-01-01 00:00:00+00', '0099-01-01T00:00:00+00:00'],
])('the moment %s is %s in UTC', (given, utc) => {
  expect(toUtc(given)).toBe(utc);
  expect(parseSignal(JSON.stringify({ ...row, timestamp: given }))).toMatchObject({ timestamp: utc });
});

test('a truncated row has its id and its transaction alone', () => {
  const payload = '{"id":7,"xid":"745","truncated":true}';
  expect(parseSignal(payload)).toEqual({ id: 7, xid: '745', truncated: true });
});

test.each([
  ['hello', 'not JSON'],
  ['', 'not JSON'],
  ['null', 'expected a JSON object'],
  ['3', 'expected a JSON object'],
  ['[]', 'expected "id"'],
  ['{}', 'expected "id"'],
  [JSON.stringify({ ...row, id: '7' }), 'expected "id"'],
  [JSON.stringify(row).replace('7', '9007199254740993'), 'expected "id"'],
  [JSON.stringify({ ...row, xid: 745 }), 'expected "xid"'],
  ['{"id":7,"truncated":true}', 'expected "xid"'],
  [JSON.stringify({ ...row, timestamp: 5 }), 'expected "timestamp"'],
  [JSON.stringify({ ...row, timestamp: 'yesterday' }), 'expected "timestamp" to be RFC 3339'],
  [JSON.stringify({ ...row, timestamp: '2026-13-02T16:23:17+01:00' }), 'expected "timestamp" to be a date that exists'],
  [JSON.stringify({ ...row, signal_name: null }), 'expected "signal_name"'],
  [JSON.stringify({ ...row, signal_value: '1' }), 'expected "signal_value"'],
  [JSON.stringify({ ...row, attributes: [] }), 'expected "attributes"'],
])('the payload %j is rejected: %s', (payload, reason) => {
  expect(() => parseSignal(payload)).toThrow(reason);
});
