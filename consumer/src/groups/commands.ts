/** What each command of `npm run groups` does, and says. */
import type { createPool } from '@pg-signals/db';
import {
  countDeadLetters,
  deleteGroup,
  dropDeadLetters,
  listDeadLetters,
  listGroups,
  listRetries,
  resetGroup,
  retryDeadLetters,
  showGroup,
} from 'pg-signals';
import { confirm } from './confirm.ts';
import type { Command } from './options.ts';
import { deadLettersTable, groupsTable, lanesTable, retriesTable } from './tables.ts';

type Pool = ReturnType<typeof createPool>;

export interface Answer {
  /** For programs. */
  json: unknown;
  /** For people. */
  text: string;
  /** What could not be done, a line each. */
  problems?: string[];
}

/** @returns undefined where the question was answered with no. */
export async function run(pool: Pool, command: Command, yes: boolean): Promise<Answer | undefined> {
  switch (command.name) {
    case 'list': {
      const groups = await listGroups(pool);
      return { json: groups, text: groupsTable(groups) };
    }
    case 'show':
      return show(pool, command.group, command.limit);
    case 'retry':
      return retry(pool, command.group, command.ids);
    case 'drop-dead': {
      const { group, ids } = command;
      const what = async () =>
        `${plural(ids?.length ?? (await countDeadLetters(pool, group)), 'dead letter')} of ${group}`;
      if (!yes && !(await confirm(`Delete ${await what()}?`))) return undefined;
      const { dropped, missing } = await dropDeadLetters(pool, group, ids);
      const text = `deleted ${plural(dropped.length, 'dead letter')} of ${group}\n`;
      return { json: { dropped, missing }, text, problems: missing.map(notDead(group)) };
    }
    case 'reset':
      return reset(pool, command, yes);
    case 'delete':
      return remove(pool, command.group, yes);
  }
}

async function show(pool: Pool, name: string, limit: number): Promise<Answer> {
  const { group, lanes } = await showGroup(pool, name);
  const retries = await listRetries(pool, name, { limit });
  const deadLetters = await listDeadLetters(pool, name, { limit });
  const parts = [`${groupsTable([group])}reads ${group.feed}\n`, lanesTable(lanes)];
  const heading = (what: string, shown: number, all: number) =>
    `${what}${shown < all ? `, ${shown} of ${all}` : ''}:\n`;
  if (retries.length > 0) parts.push(heading('tried again', retries.length, group.retries) + retriesTable(retries));
  if (deadLetters.length > 0) {
    parts.push(heading('dead letters', deadLetters.length, group.dead_letters) + deadLettersTable(deadLetters));
  }
  return { json: { group, lanes, retries, dead_letters: deadLetters }, text: parts.join('\n') };
}

async function retry(pool: Pool, name: string, ids: readonly number[] | undefined): Promise<Answer> {
  const { retried, deleted, missing } = await retryDeadLetters(pool, name, ids);
  const gone = (id: number) => `signal ${id}: its row has been deleted, so it stays a dead letter`;
  return {
    json: { retried, deleted, missing },
    text: `${plural(retried.length, 'dead letter')} of ${name} ${retried.length === 1 ? 'is' : 'are'} tried again\n`,
    problems: [...deleted.map(gone), ...missing.map(notDead(name))],
  };
}

async function reset(pool: Pool, { group: name, to, toText }: Command & { name: 'reset' }, yes: boolean) {
  if (!yes) {
    const { group } = await showGroup(pool, name);
    const loses = `Its present place is lost, and ${plural(group.retries, 'retry', 'retries')}.`;
    if (!(await confirm(`${loses} Let ${name} begin again at ${toText}?`))) return undefined;
  }
  const done = await resetGroup(pool, name, to);
  const joining = done.members > 0 ? `, ${plural(done.members, 'member')} to join again` : '';
  const text = `${name} begins again at ${toText}: ${plural(done.retries, 'retry', 'retries')} deleted${joining}\n`;
  return { json: done, text };
}

async function remove(pool: Pool, name: string, yes: boolean): Promise<Answer | undefined> {
  if (!yes) {
    const { group } = await showGroup(pool, name);
    const loses = `${plural(group.retries, 'retry', 'retries')} and ${plural(group.dead_letters, 'dead letter')}`;
    if (!(await confirm(`Delete ${name}, its place, ${loses}?`))) return undefined;
  }
  const done = await deleteGroup(pool, name);
  const gone = `${plural(done.retries, 'retry', 'retries')} and ${plural(done.dead_letters, 'dead letter')}`;
  return { json: done, text: `deleted ${name}, with ${gone}\n` };
}

const notDead = (name: string) => (id: number) => `signal ${id} is no dead letter of ${name}`;

const plural = (count: number, one: string, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
