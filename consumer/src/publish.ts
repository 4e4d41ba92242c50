/** Notifies a plain channel from code, as part of the caller's transaction. */
import type { ClientBase } from 'pg';

/** PostgreSQL takes 7,999 bytes: NOTIFY_PAYLOAD_MAX_LENGTH in async.c, with the terminating zero. */
const MAX_PAYLOAD_BYTES = 7_999;
const MAX_CHANNEL_BYTES = 63;

/**
 * Sends a payload on a channel through a connection: at once where it is in no transaction, else at COMMIT, and not at
 * all after ROLLBACK. Equal payloads on one channel within one transaction are sent once.
 *
 * @throws {RangeError} before anything reaches the server, for a payload of more than 7,999 bytes in UTF-8 or a channel
 *   that is not of 1 to 63 bytes. The transaction is none the worse for it.
 */
export async function publish(client: Pick<ClientBase, 'query'>, channel: string, payload: string): Promise<void> {
  const channelBytes = Buffer.byteLength(channel);
  if (channelBytes === 0 || channelBytes > MAX_CHANNEL_BYTES) {
    throw new RangeError(`A channel's name has 1 to ${MAX_CHANNEL_BYTES} bytes, this one has ${channelBytes}`);
  }
  const bytes = Buffer.byteLength(payload);
  if (bytes > MAX_PAYLOAD_BYTES) {
    throw new RangeError(
      `A payload has at most ${MAX_PAYLOAD_BYTES} bytes, this one has ${bytes}: insert a row and let its trigger notify, or send a reference`,
    );
  }
  await client.query('SELECT pg_notify($1, $2)', [channel, payload]);
}
