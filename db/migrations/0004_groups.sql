-- Up Migration

-- Consumer groups: cursors that outlive the processes that move them. Nothing here is written when a signal is inserted.

CREATE TABLE signal_groups (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name       text NOT NULL UNIQUE CHECK (name ~ '^[[:alnum:]_.:-]{1,63}$'),
  -- The table that the group reads, as a member names it.
  feed       text NOT NULL,
  -- Both fixed when the group is made: a signal's lane must not change.
  lanes      integer NOT NULL CHECK (lanes BETWEEN 1 AND 1024),
  order_key  text,
  -- A slot has one lane, and one broadcast replica at a time.
  is_slot    boolean NOT NULL DEFAULT false,
  -- The number of the member that joined last.
  epoch      bigint NOT NULL DEFAULT 0,
  -- The cursors of the lanes that no member owns, as client/src/group/storedCursor.ts writes them.
  free       jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  -- When the last of its members left or was given up.
  left_at    timestamptz
);

COMMENT ON TABLE signal_groups IS 'Consumer groups and slots: npm run groups lists them.';

-- A member's row is its lease, and the cursors of its lanes: a checkpoint is one update of one row. An update whose epoch is
-- gone changes nothing, so a member that was given up can't undo what came after it.
CREATE TABLE signal_group_members (
  group_id    bigint NOT NULL REFERENCES signal_groups ON DELETE CASCADE,
  epoch       bigint NOT NULL,
  name        text NOT NULL,
  -- Past this, the others may take its lanes.
  lease_until timestamptz NOT NULL,
  -- Counts its checkpoints, and the moves of its lanes: fewer than it remembers, and this server has lost some.
  stored      bigint NOT NULL DEFAULT 0,
  cursors     jsonb NOT NULL,
  in_flight   integer NOT NULL DEFAULT 0,
  joined_at   timestamptz NOT NULL DEFAULT now(),
  -- The server's process behind its listening connection: gone with the member, long before the lease ends.
  backend     integer,
  PRIMARY KEY (group_id, epoch)
) WITH (fillfactor = 50); -- room for the next version on the same page: no index is touched, and no vacuum is needed

-- Signals that failed, and those that wait behind one for the sake of their order.
CREATE TABLE signal_retries (
  group_id    bigint NOT NULL REFERENCES signal_groups ON DELETE CASCADE,
  signal_id   bigint NOT NULL,
  xid         xid8 NOT NULL,
  -- The order in which the signals of a key are handled.
  seq         bigint GENERATED ALWAYS AS IDENTITY,
  lane        integer NOT NULL,
  key         text,
  -- How many runs were begun: counted before each but the first.
  attempts    integer NOT NULL,
  -- 'infinity' behind another signal of its key.
  due_at      timestamptz NOT NULL,
  -- The member that runs it now.
  running     bigint,
  first_error text,
  last_error  text,
  PRIMARY KEY (group_id, signal_id)
);

CREATE INDEX signal_retries_due ON signal_retries (group_id, due_at);
-- By the key's hash: a key may be longer than an entry of an index.
CREATE INDEX signal_retries_key ON signal_retries (group_id, hashtextextended(key, 0), seq) WHERE key IS NOT NULL;

CREATE TABLE dead_letters (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  group_name  text NOT NULL,
  signal_id   bigint NOT NULL,
  -- The row as it was handled; NULL where it had been deleted.
  signal      jsonb,
  attempts    integer NOT NULL,
  first_error text,
  last_error  text,
  died_at     timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX dead_letters_group ON dead_letters (group_name, signal_id);

COMMENT ON TABLE dead_letters IS 'Signals that a group has given up after the last attempt.';

-- Down Migration

DROP TABLE dead_letters;
DROP TABLE signal_retries;
DROP TABLE signal_group_members;
DROP TABLE signal_groups;
