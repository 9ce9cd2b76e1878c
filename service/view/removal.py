"""Removes sessions and malformed callbacks from the view, and lists their entries for deletion.

By indexes only: the work depends on what is removed, not on what is kept.
"""

from typing import NamedTuple

import apsw

from service.positions import ORDINAL_BITS, position_of
from service.session import SessionKey
from service.view.digest import row_hash
from service.view.errors import sqlite_errors

_SESSION = "feed INDEXED BY feed_by_session WHERE first_revision = ?1 AND revised IN (0, 1, 2)"
_MALFORMED = f"feed WHERE position = ?1 << {ORDINAL_BITS}"

ROWS = "SELECT position, record, session FROM {feed}"
NOTE_ENTRIES = """
    INSERT OR IGNORE INTO entries_to_delete SELECT event_revision, ?2 FROM {feed}
"""
DROP_REJECTIONS = """
    DELETE FROM rejections WHERE event_revision IN (SELECT event_revision FROM {feed})
"""
DROP_ROWS = "DELETE FROM {feed}"
NOTE_REPETITIONS = """
    INSERT OR IGNORE INTO entries_to_delete SELECT revision, ?2 FROM repetitions WHERE owner = ?1
"""
DROP_REPETITIONS = "DELETE FROM repetitions WHERE owner = ?"
DROP_REFUSED = "DELETE FROM refused_ids INDEXED BY refused_by_owner WHERE owner = ?"
DROP_KEY = "DELETE FROM session_keys WHERE sdk_app_id = ? AND session_id = ?"
DROP_SESSION = "DELETE FROM sessions WHERE number = ?"
DROP_MALFORMED = "DELETE FROM malformed_callbacks WHERE revision = ?"
FIND_MALFORMED = """
    SELECT record FROM feed
    WHERE position = ? AND sdk_app_id = ? AND session_id = '' AND revised = 2
"""


class Removed(NamedTuple):
    """Rows of the feed that were removed, the sum of their hashes, and the repetitions of them."""

    rows: int
    digest: int
    repetitions: int


class Removal:
    """The removal for one FORGET entry, in the transaction that applies it."""

    def __init__(self, db: apsw.Connection, forget_revision: int) -> None:
        self._db = db
        self._forget_revision = forget_revision

    @sqlite_errors()
    def session(self, key: SessionKey, first_revision: int, number: int | None) -> Removed:
        """Remove a session, of which the view has the rows that are written already."""
        self._db.execute(DROP_KEY, key)
        self._db.execute(DROP_SESSION, (number,))
        return self._remove(_SESSION, first_revision)

    @sqlite_errors()
    def find_malformed(self, sdk_app_id: int, revision: int) -> bytes | None:
        """Return the record of a malformed callback of an app; None if it is not one."""
        found = self._db.execute(FIND_MALFORMED, (position_of(revision), sdk_app_id)).fetchone()
        return found[0] if found else None

    @sqlite_errors()
    def malformed(self, revision: int) -> Removed:
        self._db.execute(DROP_MALFORMED, (revision,))
        return self._remove(_MALFORMED, revision)

    def _remove(self, feed: str, owner: int) -> Removed:
        rows = digest = 0
        for row in self._db.execute(ROWS.format(feed=feed), (owner,)):
            rows += 1
            digest += row_hash(*row)
        for sql in NOTE_ENTRIES, NOTE_REPETITIONS:
            self._db.execute(sql.format(feed=feed), (owner, self._forget_revision))
        for sql in DROP_REJECTIONS, DROP_ROWS, DROP_REFUSED:
            self._db.execute(sql.format(feed=feed), (owner,))
        self._db.execute(DROP_REPETITIONS, (owner,))
        return Removed(rows, digest, self._db.changes())
