-- Up Migration

-- The signal that each idempotency key stands for. Kept for a day or more; a signal without a key has no row here.
CREATE TABLE signal_keys (
  key         text COLLATE "C" NOT NULL,
  -- Index of the signal among those of one request under this key.
  part        integer NOT NULL,
  -- SHA-256 of what was sent: the same key with other content is an error.
  fingerprint bytea NOT NULL,
  -- No foreign key: each insert would lock the row of the signal, and a signal may be deleted before its key.
  signal_id   bigint NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (key, part)
);

-- For the deletion of old keys.
CREATE INDEX signal_keys_created_at ON signal_keys (created_at);

COMMENT ON TABLE signal_keys IS 'Idempotency keys: a signal published again under its key is not inserted again.';

-- Inserts signals of which some have a key, and returns a row of signals for each, in the order given: the new row, or
-- for a known key the row of the first time.
--
-- The keys are claimed first. Where another transaction has claimed one of them, that INSERT waits for its end, and then
-- the key is known here too. All writers claim keys in the same order, so that they never deadlock. It is a function, so
-- that key and signal take one round trip and one transaction, and its statements each see what was committed before
-- them, which the parts of a single statement would not.
--
-- Raises SK409 for a key that stands for something else, and inserts nothing.
CREATE FUNCTION fn_insert_keyed_signals(
  timestamps   timestamptz[],
  names        text[],
  vals         double precision[],
  attrs        jsonb[],
  keys         text[],
  parts        integer[],
  fingerprints bytea[]
) RETURNS SETOF signals
LANGUAGE plpgsql
SET search_path FROM CURRENT
-- Every join looks up a batch in an index. A plan made while the tables were small would scan them when they are large,
-- until the next ANALYZE.
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
  sequence CONSTANT regclass := pg_get_serial_sequence('signals', 'id');
  ids      CONSTANT bigint[] := ARRAY(SELECT nextval(sequence) FROM generate_series(1, cardinality(names)));
  wrong    record;
BEGIN
  INSERT INTO signal_keys (key, part, fingerprint, signal_id)
  SELECT new.key, new.part, new.fingerprint, new.id
  FROM unnest(keys, parts, fingerprints, ids) AS new (key, part, fingerprint, id)
  WHERE new.key IS NOT NULL
  ORDER BY new.key COLLATE "C", new.part, new.id
  ON CONFLICT DO NOTHING;

  INSERT INTO signals (id, "timestamp", signal_name, signal_value, attributes)
  OVERRIDING SYSTEM VALUE
  SELECT new.id, coalesce(new."timestamp", now()), new.signal_name, new.signal_value, coalesce(new.attributes, '{}')
  FROM unnest(ids, timestamps, names, vals, attrs, keys, parts)
    AS new (id, "timestamp", signal_name, signal_value, attributes, key, part)
  LEFT JOIN signal_keys AS known ON known.key = new.key AND known.part = new.part
  WHERE new.key IS NULL OR known.signal_id = new.id
  ORDER BY new.id;

  SELECT new.key, known.fingerprint = new.fingerprint AS same, known.signal_id INTO wrong
  FROM unnest(keys, parts, fingerprints, ids) AS new (key, part, fingerprint, id)
  LEFT JOIN signal_keys AS known ON known.key = new.key AND known.part = new.part
  WHERE new.key IS NOT NULL
    AND known.signal_id IS DISTINCT FROM new.id
    AND (
      known.fingerprint IS DISTINCT FROM new.fingerprint
      OR NOT EXISTS (SELECT FROM signals WHERE signals.id = known.signal_id)
    )
  LIMIT 1;
  IF wrong.same THEN
    RAISE EXCEPTION 'The key % stands for the signal %, which has been deleted', wrong.key, wrong.signal_id
      USING ERRCODE = 'SK409';
  ELSIF NOT wrong.same THEN
    RAISE EXCEPTION 'The key % stands for another signal already', wrong.key USING ERRCODE = 'SK409';
  ELSIF wrong.key IS NOT NULL THEN
    RAISE EXCEPTION 'The key % was cleared at this moment', wrong.key USING ERRCODE = 'serialization_failure';
  END IF;

  RETURN QUERY
  SELECT signals.*
  FROM unnest(ids, keys, parts) WITH ORDINALITY AS new (id, key, part, position)
  LEFT JOIN signal_keys AS known ON known.key = new.key AND known.part = new.part
  JOIN signals ON signals.id = coalesce(known.signal_id, new.id)
  ORDER BY new.position;
END;
$$;

-- Down Migration

DROP FUNCTION fn_insert_keyed_signals(
  timestamptz[], text[], double precision[], jsonb[], text[], integer[], bytea[]
);
DROP TABLE signal_keys;
