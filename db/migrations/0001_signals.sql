-- Up Migration

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
BEGIN
  PERFORM pg_notify(
    'new_signals',
    CASE WHEN octet_length(payload) < 8000 THEN payload ELSE format('{"id":%s,"xid":"%s","truncated":true}', id, xid) END
  )
  FROM (
    SELECT id, xid, row_to_json(signal)::text AS payload
    FROM (SELECT id, "timestamp", signal_name, signal_value, attributes, xid FROM new_rows) AS signal
    OFFSET 0 -- keeps the planner from merging the subquery, which would write each row's JSON twice
  ) AS notification;
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
