/** Notifies a channel from code, as part of the caller's transaction. */
import type { ClientBase } from 'pg';

/** PostgreSQL takes 7,999 bytes: NOTIFY_PAYLOAD_MAX_LENGTH in async.c counts the terminating zero. */
const MAX_PAYLOAD_BYTES = 7_999;
const MAX_CHANNEL_BYTES = 63;

/** @throws {RangeError} for a name that PostgreSQL would cut: a channel's name has 1 to 63 bytes. */
export function checkChannel(channel: string): void {
  const bytes = Buffer.byteLength(channel);
  if (bytes > 0 && bytes <= MAX_CHANNEL_BYTES) return;
  throw new RangeError(`A channel's name has 1 to ${MAX_CHANNEL_BYTES} bytes, this one has ${bytes}`);
}

/**
 * Sends a payload on a channel: at once where the connection is in no transaction, else at COMMIT, and not at all after
 * ROLLBACK. PostgreSQL sends equal payloads on one channel within one transaction once.
 *
 * @throws {RangeError} for a payload of more than 7,999 bytes in UTF-8, or a channel that does not have 1 to 63 bytes.
 *   Nothing has reached the server then, and the transaction goes on.
 */
export async function notify(client: Pick<ClientBase, 'query'>, channel: string, payload: string): Promise<void> {
  checkChannel(channel);
  const bytes = Buffer.byteLength(payload);
  if (bytes > MAX_PAYLOAD_BYTES) {
    throw new RangeError(
      `A payload has at most ${MAX_PAYLOAD_BYTES} bytes, this one has ${bytes}: insert a row and let its trigger notify, or send a reference`,
    );
  }
  await client.query('SELECT pg_notify($1, $2)', [channel, payload]);
}
