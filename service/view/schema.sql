-- The view: everything here is computed from the journal and can be thrown away.
-- Times and durations are integer milliseconds. Enum columns hold desk.v1 numbers.

-- How far the view has come. One row, written in the transaction that applies a batch.
CREATE TABLE progress (
    only             INTEGER PRIMARY KEY CHECK (only = 1),
    journal_id       TEXT    NOT NULL,
    fingerprint      TEXT    NOT NULL,
    applied_revision INTEGER NOT NULL,  -- the last revision in the view
    applied_id       BLOB    NOT NULL,  -- the id of its entry: a journal restored from a backup has another
    head_revision    INTEGER NOT NULL,  -- the journal's newest revision, as last seen
    oldest_revision  INTEGER NOT NULL,  -- the oldest revision from which on nothing is missing
    begins_at        INTEGER NOT NULL,  -- the first revision of the journal when the view was begun
    behind_since     INTEGER,           -- received_at of the first entry not applied; NULL when caught up
    digest           BLOB    NOT NULL,  -- sum of the hashes of the feed's rows: see service.view.digest
    removed          BLOB    NOT NULL,  -- the part of it that is of rows that the next entry, which forgets many,
                                        -- has removed already
    complete         INTEGER NOT NULL,  -- 1 once the view has caught up for the first time
    repetitions      INTEGER NOT NULL,  -- entries that repeat an earlier one, and so have no record
    damaged          INTEGER NOT NULL,  -- entries that are not as they were appended: malformed in the feed
    problem          TEXT    NOT NULL   -- why the journal cannot be read further; '' if it can
) STRICT;

-- Every session that a callback has named, by its key. Desk's ids are random, so a session that is
-- not at hand costs a page of this: it is the only place where they are looked for.
CREATE TABLE session_keys (
    session_id     TEXT    NOT NULL,
    sdk_app_id     INTEGER NOT NULL,
    first_revision INTEGER NOT NULL,     -- of its first callback: what the feed has it by
    number         INTEGER,              -- what `sessions` has it by; NULL while it has not begun
    full           INTEGER NOT NULL,     -- 1 once it has used up what one session may have: the ids of
                                         -- its history stand in refused_ids, and that is read no more
    PRIMARY KEY (session_id, sdk_app_id)
) STRICT, WITHOUT ROWID;

-- Sessions that have not begun, for those who forget.
CREATE INDEX session_keys_not_begun ON session_keys (first_revision) WHERE number IS NULL;

-- What is malformed belongs to no session; the feed has it under this key.
INSERT INTO session_keys VALUES ('', 0, 0, NULL, 0);

-- Every session that has begun, as it is now.
CREATE TABLE sessions (
    number         INTEGER PRIMARY KEY,  -- the revision at which it was first seen to have begun:
                                         -- unique, the same on every replica; settles ties in every order
    sdk_app_id     INTEGER NOT NULL,
    session_id     TEXT    NOT NULL,
    first_revision INTEGER NOT NULL,     -- as in session_keys
    state          INTEGER NOT NULL,
    end_reason     INTEGER NOT NULL,
    client_user_id TEXT    NOT NULL,
    channel_type   TEXT    NOT NULL,
    agent_id       TEXT    NOT NULL,
    agent_ids      TEXT    NOT NULL,     -- a JSON array
    begun_at       INTEGER NOT NULL,
    ended_at       INTEGER,
    last_event_at  INTEGER NOT NULL,
    state_since    INTEGER NOT NULL,
    satisfaction   INTEGER NOT NULL,     -- 0 = not rated
    queue_wait     INTEGER,
    first_response INTEGER,
    handle_time    INTEGER,
    forwards       INTEGER NOT NULL,
    rejected_events INTEGER NOT NULL,    -- that stand
    never_answered INTEGER NOT NULL,     -- 1 if an agent was asked for, and none has answered
    session        BLOB    NOT NULL,     -- desk.v1.Session
    fold           BLOB    NOT NULL      -- the fold's own state, to go on without its history
) STRICT;

CREATE INDEX sessions_by_begun      ON sessions (begun_at);
CREATE INDEX sessions_by_last_event ON sessions (last_event_at);
CREATE INDEX sessions_by_ended      ON sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_by_state      ON sessions (state, begun_at);
CREATE INDEX sessions_by_agent      ON sessions (agent_id, begun_at);
CREATE INDEX sessions_by_user       ON sessions (client_user_id, begun_at);
CREATE INDEX sessions_by_stay       ON sessions (state, state_since);
CREATE INDEX sessions_by_queue      ON sessions (sdk_app_id, state_since) WHERE state = 3;
-- Few last so long; all others that lie in a range begin in it, or up to 6 hours before.
CREATE INDEX sessions_that_last     ON sessions (last_event_at) WHERE last_event_at - begun_at > 21600000;

-- The number of sessions by app and state: counting them would read an index of all sessions. It is
-- changed once a batch.
CREATE TABLE session_counts (
    sdk_app_id INTEGER NOT NULL,
    state      INTEGER NOT NULL,
    sessions   INTEGER NOT NULL,
    PRIMARY KEY (sdk_app_id, state)
) STRICT, WITHOUT ROWID;

-- The number of callbacks by what the session's machine made of them, as things stand. It is changed
-- once a batch.
CREATE TABLE event_counts (
    sdk_app_id INTEGER NOT NULL,
    type       INTEGER NOT NULL,
    state      INTEGER NOT NULL,  -- before it, in time order
    verdict    INTEGER NOT NULL,
    reason     INTEGER NOT NULL,
    events     INTEGER NOT NULL,
    PRIMARY KEY (sdk_app_id, type, state, verdict, reason)
) STRICT, WITHOUT ROWID;

-- What was made of every callback, append-only. Read in order of position.
CREATE TABLE feed (
    position       INTEGER PRIMARY KEY,  -- revision << 20 | ordinal
    event_revision INTEGER NOT NULL,     -- the event's own revision; equal to the record's unless revised
    sdk_app_id     INTEGER NOT NULL,
    session_id     TEXT    NOT NULL,     -- '' when malformed
    first_revision INTEGER NOT NULL,     -- as in session_keys
    revised        INTEGER NOT NULL,     -- 0 in an event's own row (ordinal 0), 1 where a late one has changed it,
                                         -- 2 in the own row of an event that is in no history: malformed, or of
                                         -- a session that had no room for it; 3 where sessions were forgotten
    type           INTEGER NOT NULL,
    verdict        INTEGER NOT NULL,
    reason         INTEGER NOT NULL,
    verdicts       INTEGER NOT NULL,     -- bit (1 << verdict) of every verdict ever published for the event
    agent_id       TEXT    NOT NULL,     -- for filters: as first published, never changed by a revision
    client_user_id TEXT    NOT NULL,
    channel_type   TEXT    NOT NULL,
    received_at    INTEGER NOT NULL,     -- of the entry with the position's revision
    record         BLOB    NOT NULL,     -- desk.v1.SessionRecord without `session`; its event stands last, and
                                         -- in the event's own row only. If 3: desk.v1.SubscribeResponse
    event_at       INTEGER NOT NULL,     -- bytes of `record` before the event
    session        BLOB                  -- desk.v1.Session after the revision; in ordinal 0 only;
                                         -- NULL while the session has not begun
) STRICT;

-- The position stands at the end of each key of an index.
CREATE INDEX feed_by_session ON feed (first_revision, revised);

-- Ids of entries that are recognised without a history: malformed ones, and all of sessions that are full.
CREATE TABLE refused_ids (
    id    BLOB    PRIMARY KEY,
    owner INTEGER NOT NULL     -- first_revision of the session, or the revision of the malformed entry
) STRICT, WITHOUT ROWID;

CREATE INDEX refused_by_owner ON refused_ids (owner);

-- Entries that repeat another one, and so have no record. They are forgotten with their owner.
CREATE TABLE repetitions (
    owner    INTEGER NOT NULL,  -- as in refused_ids
    revision INTEGER NOT NULL,
    PRIMARY KEY (owner, revision)
) STRICT, WITHOUT ROWID;

-- Malformed callbacks that can be read, and so name a session. An entry that forgets it lists them, too.
CREATE TABLE malformed_callbacks (
    revision   INTEGER PRIMARY KEY,
    sdk_app_id INTEGER NOT NULL,
    session_id TEXT    NOT NULL
) STRICT;

CREATE INDEX malformed_by_session ON malformed_callbacks (session_id, sdk_app_id);

-- Sessions that were forgotten, each time. They may have begun again since.
CREATE TABLE forgotten_sessions (
    sdk_app_id INTEGER NOT NULL,
    session_id TEXT    NOT NULL,
    revision   INTEGER NOT NULL,  -- of the FORGET entry
    PRIMARY KEY (session_id, sdk_app_id, revision)
) STRICT, WITHOUT ROWID;

-- Entries that are forgotten, and may still be in the journal: their bytes are to be deleted.
CREATE TABLE entries_to_delete (
    revision        INTEGER PRIMARY KEY,
    forget_revision INTEGER NOT NULL      -- of the FORGET entry
) STRICT;

CREATE INDEX entries_by_forget_revision ON entries_to_delete (forget_revision);

-- The rejections that stand now: where in the feed each was published.
CREATE TABLE rejections (
    position       INTEGER PRIMARY KEY,
    event_revision INTEGER NOT NULL UNIQUE
) STRICT;
