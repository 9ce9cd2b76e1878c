-- The journal: callbacks exactly as they came. Times are Unix time in milliseconds.
-- To look at it: sqlite3 -readonly journal.db "SELECT revision, request_id, body FROM entries"

-- Version 2. Older files are brought to it by the statements in journal/sqlite_format.py.

-- The journal as a whole. One row.
CREATE TABLE header (
    only            INTEGER PRIMARY KEY CHECK (only = 1),
    journal_id      TEXT    NOT NULL CHECK (length(journal_id) = 32),
    oldest_revision INTEGER NOT NULL DEFAULT 1  -- the lowest from which reading is possible
) STRICT;

-- Append-only. The columns are the fields of journal.entry.Entry.
CREATE TABLE entries (
    revision    INTEGER PRIMARY KEY,        -- ascending
    id          BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    sdk_app_id  INTEGER NOT NULL,
    received_at INTEGER NOT NULL,           -- of the first delivery
    request_id  TEXT    NOT NULL,
    client_ip   TEXT    NOT NULL,
    platform    TEXT    NOT NULL,
    body        BLOB    NOT NULL,           -- the HTTP body, byte for byte
    kind        INTEGER NOT NULL DEFAULT 1  -- 1 = callback, 2 = forget
) STRICT;
