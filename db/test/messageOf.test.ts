import { expect, test } from 'vitest';
import { messageOf } from '../src/messageOf.ts';

test('the error of a host with several addresses names each of them', () => {
  const addresses = ['::1:5432', '127.0.0.1:5432'].map((address) => new Error(`connect ECONNREFUSED ${address}`));
  expect(messageOf(new AggregateError(addresses))).toBe(
    'connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432',
  );
});

test('an error without a message is named', () => {
  expect(messageOf(new RangeError())).toBe('RangeError');
});
