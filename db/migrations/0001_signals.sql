-- Up Migration

-- Takes over the table of the Go original, "timestamp", signal_name and signal_value: its rows wait in a temporary table
-- until ours is there. The lock lets no row be inserted in between. An insert that waits for it goes into the new table.
DO $$
DECLARE
  no_signal CONSTANT text := 'num_nulls("timestamp", signal_name, signal_value) > 0 '
    'OR "timestamp" < ''0001-01-01 00:00:00+00'' OR "timestamp" >= ''10000-01-01 00:00:00+00'' '
    'OR signal_value::text IN (''NaN'', ''Infinity'', ''-Infinity'')';
  more_columns text;
  no_signals   bigint;
BEGIN
  IF to_regclass('signals') IS NULL THEN
    RETURN;
  END IF;
  PERFORM set_config('timezone', 'UTC', true); -- for a "timestamp" without time zone, which the original writes in UTC
  LOCK TABLE signals IN ACCESS EXCLUSIVE MODE;

  SELECT string_agg(format('%L, %I', attname, attname), ', ' ORDER BY attnum) INTO more_columns
  FROM pg_attribute
  WHERE attrelid = 'signals'::regclass AND attnum > 0 AND NOT attisdropped
    AND attname NOT IN ('timestamp', 'signal_name', 'signal_value');
  IF more_columns IS NOT NULL THEN
    RAISE EXCEPTION USING MESSAGE = format(
'there is a table public.signals, and it has more columns than that of the Go original. Put it aside, migrate, and insert its rows before a service starts:
CREATE SCHEMA original; ALTER TABLE public.signals SET SCHEMA original; DROP FUNCTION IF EXISTS public.fn_new_signals() CASCADE;
npm run migrate
INSERT INTO public.signals ("timestamp", signal_name, signal_value, attributes) SELECT "timestamp", signal_name, signal_value, jsonb_build_object(%s) FROM original.signals;',
      more_columns);
  END IF;

  EXECUTE 'SELECT count(*) FROM signals WHERE ' || no_signal INTO no_signals;
  IF no_signals > 0 THEN
    RAISE EXCEPTION USING MESSAGE = format(
'%s rows of the table public.signals can be no signals. Correct them, or:
DELETE FROM public.signals WHERE %s;',
      no_signals, no_signal);
  END IF;

  CREATE TEMPORARY TABLE original_signals ON COMMIT DROP AS
    SELECT "timestamp"::timestamptz, signal_name::text, signal_value::double precision FROM signals;
  DROP TABLE signals;
  DROP FUNCTION IF EXISTS fn_new_signals();
END;
$$;

CREATE TABLE signals (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- A finite moment with a four-digit year, so that RFC 3339 can express every row ('infinity' and BC it can't).
  "timestamp"  timestamptz NOT NULL DEFAULT now()
               CHECK ("timestamp" >= '0001-01-01 00:00:00+00' AND "timestamp" < '10000-01-01 00:00:00+00'),
  signal_name  text NOT NULL,
  -- JSON can't carry NaN and infinities.
  signal_value double precision NOT NULL
               CHECK (signal_value > '-Infinity' AND signal_value < 'Infinity'),
  attributes   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
  -- The transaction that wrote the row. An id can't serve as a cursor, because ids are assigned before the commit; this
  -- column and two snapshots say exactly what was committed between them.
  xid          xid8 NOT NULL DEFAULT pg_current_xact_id()
);

-- The order in which a consumer catches up: by transaction, then by id.
CREATE INDEX signals_xid_id ON signals (xid, id);

COMMENT ON TABLE signals IS 'Every signal, in the order of its commit: the truth behind the channel new_signals.';

-- Nobody is notified of the original's rows, and their xid, which every snapshot covers, lets no consumer read them as new.
DO $$
BEGIN
  IF to_regclass('pg_temp.original_signals') IS NOT NULL THEN
    INSERT INTO signals ("timestamp", signal_name, signal_value, xid)
    SELECT "timestamp", signal_name, signal_value, '3' FROM original_signals ORDER BY "timestamp";
  END IF;
END;
$$;

-- Notifies the channel new_signals of each inserted row when the transaction commits. By its xid a consumer knows whether
-- a snapshot covers the row.
--
-- One call for each statement, over the transition table: 1.5 times the rows per second of a row-level trigger.
-- The settings fix how a row is written as JSON, whatever the writer's session has set: times in UTC, and doubles that
-- parse to the same value.
-- 8,000 bytes is NOTIFY_PAYLOAD_MAX_LENGTH in PostgreSQL's async.c, and the terminating zero counts: 7,999 fit.
CREATE FUNCTION fn_new_signals() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
SET extra_float_digits = 1
AS $$
DECLARE
  is_foreign boolean;
BEGIN
  SELECT bool_or(xid <> pg_current_xact_id()), count(pg_notify(
    'new_signals',
    CASE WHEN octet_length(payload) < 8000 THEN payload ELSE format('{"id":%s,"xid":"%s","truncated":true}', id, xid) END
  ))
  INTO is_foreign
  FROM (
    SELECT id, xid, row_to_json(signal)::text AS payload
    FROM (SELECT id, "timestamp", signal_name, signal_value, attributes, xid FROM new_rows) AS signal
    OFFSET 0 -- keeps the planner from merging the subquery, which would write each row's JSON twice
  ) AS notification;
  -- A consumer would take such a row for one that was delivered long ago, or wait for it.
  IF is_foreign THEN
    RAISE EXCEPTION 'signals.xid has to be the inserting transaction, %', pg_current_xact_id()
      USING ERRCODE = 'check_violation', HINT = 'Leave xid out of the INSERT: its default is right.';
  END IF;
  RETURN NULL;
END;
$$;

CREATE TRIGGER new_signals
AFTER INSERT ON signals
REFERENCING NEW TABLE AS new_rows
FOR EACH STATEMENT
EXECUTE FUNCTION fn_new_signals();

-- Down Migration

DROP TABLE signals;
DROP FUNCTION fn_new_signals();
