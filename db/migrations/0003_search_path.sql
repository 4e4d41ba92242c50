-- Up Migration

-- 0002 took the search_path of whoever migrated. With this, a schema of the caller's name changes nothing.
ALTER FUNCTION fn_insert_keyed_signals(
  timestamptz[], text[], double precision[], jsonb[], text[], integer[], bytea[]
) SET search_path = pg_catalog, public, pg_temp;

-- Down Migration

ALTER FUNCTION fn_insert_keyed_signals(
  timestamptz[], text[], double precision[], jsonb[], text[], integer[], bytea[]
) SET search_path FROM CURRENT;
