/** Reads the environment once, at the start, and names every variable that is wrong. */
import { populate } from 'dotenv';
import { z } from 'zod';
import { readEnvFile } from './envFile.ts';
import { SettingsError } from './settingsError.ts';

/** A whole number in decimal digits, with a default. */
export function wholeNumber(byDefault: number, { min = 1, max = Number.MAX_SAFE_INTEGER } = {}) {
  const error = `expected a whole number ${max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`}`;
  return z
    .string({ error })
    .regex(/^\d{1,16}$/, { error })
    .transform(Number)
    .refine((value) => value >= min && value <= max, { error })
    .default(byDefault);
}

/** A time in ms, with a default. Node's timers turn anything above 2^31 - 1 into 1 ms. */
export const milliseconds = (byDefault: number) => wholeNumber(byDefault, { max: 2 ** 31 - 1 });

const UNIT_MS = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A time as people write it (`90s`, `30m`, `1h`, `2d`), with a default; in ms. */
export const duration = (byDefault: string) =>
  z
    .string()
    .regex(/^[1-9]\d{0,5}[smhd]$/, { error: 'expected a duration: 90s, 30m, 1h or 2d, for example' })
    .default(byDefault)
    .transform((text) => Number(text.slice(0, -1)) * UNIT_MS[text.at(-1) as keyof typeof UNIT_MS]);

const HOST_EXPECTED = 'expected an address of this machine: 127.0.0.1, ::1, or 0.0.0.0 for every one';

/** The variable `PORT`, with a default; 0 chooses a free one. */
export const port = (byDefault: number) => wholeNumber(byDefault, { min: 0, max: 65_535 });

/** The variables of every service; each service adds its own. */
export const commonVariables = {
  /** The address to listen on; by default only this machine reaches the service. */
  HOST: z
    .string()
    .regex(/^[\w.:-]+$/, { error: HOST_EXPECTED })
    .default('127.0.0.1'),
  /** Where set, `/healthz`, `/readyz` and `/metrics` are on this port alone. */
  HEALTH_PORT: port(0).unwrap().optional(),
  LOG_LEVEL: z.enum(['error', 'warn', 'info', 'debug']).default('info'),
  LOG_FORMAT: z.enum(['text', 'json']).default('text'),
  /** How long a stop may take before the process ends with code 1. */
  SHUTDOWN_TIMEOUT_MS: milliseconds(10_000),
};

/** Values that can be shown: no secret by the name of their variable, and nothing but letters, digits and a little more. */
const isHarmless = (name: string, value: string) =>
  !/URL|PASS|TOKEN|SECRET/i.test(name) && /^[\w .+-]{0,40}$/.test(value);

/**
 * Checks the environment against a schema; `.env` in the working directory adds what the environment lacks. An empty
 * variable counts as missing.
 *
 * @throws {SettingsError} naming every variable that is wrong, what was expected, and what was given where that can't hold a
 *   password; or every one that `.env` writes in a way that docker compose reads differently.
 */
export function readSettings<T extends z.ZodType>(
  schema: T,
  environment: NodeJS.ProcessEnv = loadEnvironment(),
): z.infer<T> {
  const given = Object.fromEntries(Object.entries(environment).filter(([, value]) => value?.trim() !== ''));
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  throw new SettingsError(
    result.error.issues
      .map(({ path, message }) => {
        const name = path.join('.');
        const value = given[name];
        const got = value !== undefined && isHarmless(name, value) ? `, got "${value}"` : '';
        const instead = value === undefined ? ', but it is missing' : got;
        return `${name}: ${message.replace(/^Invalid (input|option): /, '')}${instead}`;
      })
      .join('\n'),
  );
}

/** What `.env` adds is for all of the process: pg reads `PGSSLMODE` and others by itself. */
function loadEnvironment(): NodeJS.ProcessEnv {
  populate(process.env as Record<string, string>, readEnvFile('.env'));
  return process.env;
}
