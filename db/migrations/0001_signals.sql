-- Up Migration

CREATE TABLE signals (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  -- A finite moment with a four-digit year, so that every row can be written as RFC 3339 ('infinity' and BC can't).
  "timestamp"  timestamptz NOT NULL DEFAULT now()
               CHECK ("timestamp" >= '0001-01-01 00:00:00+00' AND "timestamp" < '10000-01-01 00:00:00+00'),
  signal_name  text NOT NULL,
  -- JSON has no NaN and no infinities: a value that it can't carry is rejected.
  signal_value double precision NOT NULL
               CHECK (signal_value > '-Infinity' AND signal_value < 'Infinity'),
  attributes   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(attributes) = 'object'),
  -- The transaction that wrote the row. Ids are given out before commits, so an id can't serve as a cursor; this column
  -- and a pg_snapshot say exactly what was committed between two moments.
  xid          xid8 NOT NULL DEFAULT pg_current_xact_id()
);

-- What a consumer that catches up reads along: first by transaction, then by id.
CREATE INDEX signals_xid_id ON signals (xid, id);

COMMENT ON TABLE signals IS 'Every signal, in the order of its commit: the truth behind the channel new_signals.';

-- Notifies the channel new_signals of each inserted row, when the transaction commits. With its xid, a notification says
-- by itself whether a snapshot covers the row.
--
-- One call for each statement, over the transition table: 1.5 times the rows per second of a row-level trigger.
-- The settings pin how a row is written as JSON, whatever the session of the writer has set: times in UTC, and doubles
-- that read back to the same value.
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
    OFFSET 0 -- keeps the subquery as one: merged into the outer query, it would write each row's JSON twice
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
