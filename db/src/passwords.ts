/**
 * For docker compose, before anything else starts: each of the database's logins gets a random password, in a volume that
 * only the containers see which need it. A constant one would let in every user of this machine, who can reach the
 * containers' addresses. One that the environment gives is used instead.
 */
import { randomBytes } from 'node:crypto';
import { existsSync, writeFileSync } from 'node:fs';

const LOGINS = {
  owner: process.env.POSTGRES_PASSWORD,
  producer: process.env.SIGNALS_PRODUCER_PASSWORD,
  consumer: process.env.SIGNALS_CONSUMER_PASSWORD,
};

for (const [login, given] of Object.entries(LOGINS)) {
  const file = `/passwords/${login}/password`;
  if (given || !existsSync(file)) writeFileSync(file, given || randomBytes(18).toString('base64url'));
}
