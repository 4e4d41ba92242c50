/** What a user who is not the owner of the tables lacks to look after groups. */
import type { Query } from '@pg-signals/db';

const TABLES = ['signal_groups', 'signal_group_members', 'signal_retries', 'dead_letters'];

/**
 * The rights that the user of the connection lacks on the tables of groups, each as GRANT writes it. To read the lag takes
 * SELECT on the table that a group reads besides.
 *
 * @param changes whether they are to be changed, too.
 */
export async function missingGroupRights(query: Query, { changes }: { changes: boolean }): Promise<string[]> {
  const rows = await query<[string]>(
    `SELECT string_agg(privilege, ', ' ORDER BY place) || ' ON TABLE public.' || name
     FROM unnest($1::text[]) AS name
     CROSS JOIN unnest($2::text[]) WITH ORDINALITY AS each (privilege, place)
     WHERE NOT has_table_privilege(to_regclass('public.' || name)::oid, privilege)
     GROUP BY name
     ORDER BY name`,
    [TABLES, changes ? ['SELECT', 'INSERT', 'UPDATE', 'DELETE'] : ['SELECT']],
  );
  return rows.map(([right]) => right);
}
