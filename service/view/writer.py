"""The only writer of the view, which also reads back what the fold needs. For the follower."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from operator import lt
from pathlib import Path
from typing import Any

import apsw
import msgspec
import structlog

from service.history import HistoryEntry
from service.positions import MAX_REVISION
from service.records import facts_of
from service.session import SessionKey
from service.view import progress, store
from service.view.errors import ViewDamaged, ViewError, sqlite_errors, view_error
from service.view.locks import lock
from service.view.progress import Progress
from service.view.removal import Removal
from service.view.rows import PLACE, FeedRow, SavedKey, SavedSession, SessionRow
from storage.files import DatabaseFiles
from storage.gaps import FIRST, clear_gaps
from storage.sizes import size_of_database

log = structlog.get_logger()

CLEARING = 0.1
"""Seconds that pages are cleared at a time; nothing is applied meanwhile."""

DROPPED = 50_000
"""Entries that one transaction takes from the list of those to delete."""

TRUNCATE_TIMEOUT = 200
"""Milliseconds that emptying the WAL waits for readers; nothing is applied meanwhile."""


# apsw finds a prepared statement by its text, for each row: short texts are faster. With ROLLBACK,
# SQLite need not copy each page that a statement changes, as it does to be able to undo that alone.
def _insert(verb: str, table: str, columns: Sequence[str], first: str = "") -> str:
    marks = ", ".join("?" * len(columns))
    return f"{verb} INTO {table} VALUES ({first}{marks})"


def _changes(row: Sequence[str], value: str, without: Sequence[str]) -> str:
    return ", ".join(
        f"{name} = {value.format(name=name, n=n)}"
        for n, name in enumerate(row, 1)
        if name not in without
    )


KEY = ("number", "sdk_app_id", "session_id", "first_revision")
INSERT_FEED = _insert("INSERT OR ROLLBACK", "feed", FeedRow._fields)
SAVE_KEY = _insert("REPLACE", "session_keys", SavedKey._fields)
SAVE_SESSION = f"""
    {_insert("INSERT OR ROLLBACK", "sessions", SessionRow._fields)}
    ON CONFLICT DO UPDATE SET {_changes(SessionRow._fields, "excluded.{name}", KEY)}
"""
SAVE_IN_PLACE = f"""
    UPDATE sessions SET {_changes(SessionRow._fields, "?{n}", (*KEY, *PLACE))} WHERE number = ?1
"""  # noqa: S608
SAVE_PROGRESS = _insert("REPLACE", "progress", Progress.__struct_fields__, "1, ")
# event_revision is unique: a rejection that got another reason moves to its new position.
ADD_REJECTION = "REPLACE INTO rejections (position, event_revision) VALUES (?, ?)"
DROP_REJECTION = "DELETE FROM rejections WHERE event_revision = ?"
COUNT_SESSIONS = """
    INSERT INTO session_counts (sdk_app_id, state, sessions) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET sessions = sessions + excluded.sessions
"""
COUNT_EVENTS = """
    INSERT INTO event_counts VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET events = events + excluded.events
"""
LOAD_SESSION = f"""
    SELECT session_keys.first_revision, session_keys.number, full, fold, {", ".join(PLACE)}
    FROM session_keys LEFT JOIN sessions ON sessions.number = session_keys.number
    WHERE session_keys.sdk_app_id = ? AND session_keys.session_id = ?
"""  # noqa: S608
LOAD_HISTORY = """
    SELECT event_revision, verdicts, agent_id, record FROM feed INDEXED BY feed_by_session
    WHERE first_revision = ? AND revised = 0
"""
LOAD_REVISIONS = """
    SELECT event_revision, verdicts FROM feed INDEXED BY feed_by_session
    WHERE first_revision = ? AND revised = 1 ORDER BY position
"""
TYPES_WITHOUT_HISTORY = """
    SELECT type, count(*) FROM feed INDEXED BY feed_by_session
    WHERE first_revision = ? AND revised = 2 GROUP BY type
"""
ADD_REFUSED_ID = "INSERT INTO refused_ids VALUES (?, ?)"
FIND_REFUSED_ID = "SELECT owner FROM refused_ids WHERE id = ?"
ANY_REFUSED_ID = "SELECT 1 FROM refused_ids LIMIT 1"
ADD_REPETITION = "INSERT INTO repetitions VALUES (?, ?)"
ADD_MALFORMED = "INSERT INTO malformed_callbacks VALUES (?, ?, ?)"
ADD_FORGOTTEN = "REPLACE INTO forgotten_sessions VALUES (?, ?, ?)"
DROP_DELETED = """
    DELETE FROM entries_to_delete WHERE revision IN (
        SELECT revision FROM entries_to_delete WHERE forget_revision <= ? LIMIT ?)
"""


class ViewWriter:
    """The only writer of one view file.

    Raises, at construction:
        InUse: another follower is writing this view.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = store.locate(data_dir)
        self._lock = lock(self.path)
        self._background = ThreadPoolExecutor(1, "view-commit")
        self._committing: Future[None] | None = None
        self._sizes = (0, 0)
        self._to_clear = FIRST  # the page to go on with; 0: nothing is left of what was removed
        # The first FORGET entries: of which something may be left, and since this pass has begun.
        self._left_from, self._removed_since = 0, MAX_REVISION
        try:
            self._open_or_renew()
        except BaseException:
            self._lock.release()
            raise

    def _open_or_renew(self) -> None:
        try:
            self._open()
        except ViewDamaged:
            log.exception("view_damaged", view=self.path.name)
            self.renew()

    def close(self) -> None:
        """Finish a commit under way, and close the file. A failed commit is logged."""
        try:
            self.settle()
        except ViewError as problem:
            log.warning("view_commit_failed", error=type(problem).__name__, detail=str(problem))
        self._background.shutdown()
        self._db.close()
        self._lock.release()

    def renew(self) -> None:
        """Replace the file by an empty one; readers notice that."""
        with suppress(ViewError):
            self.settle()
        if hasattr(self, "_db"):
            self._db.close(True)
        store.delete(self.path)
        self._open()

    def check_files(self) -> None:
        """Open the files anew if the WAL was deleted or replaced.

        Raises:
            ViewDamaged: the view itself was, or one of them was truncated.
        """
        is_cut = self._is_cut()
        now = DatabaseFiles.at(self.path)  # last: a file that was deleted meanwhile has no size
        if self._files.written_at(now):
            if is_cut:
                raise ViewDamaged("a file of the view was truncated")
            return
        log.warning("view_file_replaced", view=self.path.name)
        if now.database != self._files.database:
            raise ViewDamaged("the file of the view was deleted or replaced")
        self._end_transaction()
        with sqlite_errors():  # what was committed is only in the files that are open
            self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self._db.close(True)
        self._open()

    def _is_cut(self) -> bool:
        """Return True if a file has become smaller, which SQLite would not notice."""
        before, self._sizes = self._sizes, size_of_database(self.path)
        return any(map(lt, self._sizes, (before[0], min(before[1], store.WAL_KEPT))))

    def _open(self) -> None:
        self._db = store.open_writer(self.path)
        self._files = DatabaseFiles.at(self.path)
        self._sizes = (0, 0)

    def is_clear(self, until: int) -> bool:
        """Return True if the view's files have nothing that FORGET entries up to one removed."""
        return until < self._left_from

    def clear_removed(self) -> None:
        """Overwrite a part of what removed rows have left; go on later while the WAL is read."""
        if not self._to_clear:
            return
        self._end_transaction()
        with sqlite_errors():
            self._db.set_busy_timeout(TRUNCATE_TIMEOUT)
            try:
                self._db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            except apsw.BusyError:
                return
            finally:
                self._db.set_busy_timeout(store.BUSY_TIMEOUT)
            self._clear_pages()
        self._sizes = size_of_database(self.path)

    def _clear_pages(self) -> None:
        """Clear some pages. What is removed during a pass over all of them needs another pass."""
        if self._to_clear == FIRST:
            self._removed_since = MAX_REVISION
        if self._db.pragma("user_version"):
            page = int(self._db.pragma("page_size"))
            self._to_clear = clear_gaps(str(self.path), page, self._to_clear, CLEARING)
            self._db.pragma("shrink_memory")  # the pages in memory still have the old bytes
            if self._to_clear:
                return
            if self._removed_since == MAX_REVISION:
                self._db.pragma("user_version", 0)
        self._left_from = self._removed_since
        self._to_clear = 0 if self._removed_since == MAX_REVISION else FIRST

    def sign_of_life(self) -> None:
        """Set the time of the lock's file, which shows that the follower works, as a commit does.

        Not while a commit is under way: readers would take what they see for the present.
        """
        self._lock.touch()

    @contextmanager
    def transaction(self, *, in_background: bool = False) -> Iterator[None]:
        """Commit everything inside at once, or nothing of it.

        Args:
            in_background: commit in a thread, and return before that is done. SQLite releases
                the GIL meanwhile, so that the next entries can be read and decoded.
        """
        self._end_transaction()
        self._rows("BEGIN")
        try:
            yield
        except BaseException:
            with suppress(ViewError):  # the first error says more
                self._roll_back()
            raise
        if in_background:
            self._committing = self._background.submit(self._commit)
        else:
            self._commit()

    def _commit(self) -> None:
        # Not `with self._db`, which would hold the GIL until everything is on disk.
        try:
            self._rows("COMMIT")
        except ViewError:
            with suppress(ViewError):
                self._roll_back()
            raise
        self.sign_of_life()

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # after some errors SQLite has done it already
            self._rows("ROLLBACK")

    def _end_transaction(self) -> None:
        self.settle()
        self._roll_back()  # of a transaction that failed and could not be rolled back

    def settle(self) -> None:
        """Wait for a commit under way, and raise its error. Each transaction begins so."""
        committing, self._committing = self._committing, None
        if committing:
            committing.result()

    def progress(self) -> Progress | None:
        """Read the progress; None if the view is new. Not for use inside a transaction."""
        self._end_transaction()
        rows = self._rows(progress.LOAD)
        return Progress.of_row(rows[0]) if rows else None

    def save_progress(self, progress: Progress) -> None:
        """Write the progress."""
        self._write(SAVE_PROGRESS, [msgspec.structs.astuple(progress)])

    def add_feed(self, rows: Iterable[FeedRow]) -> None:
        """Append to the feed, in order of position."""
        self._write(INSERT_FEED, rows)

    def save_keys(self, rows: Iterable[SavedKey]) -> None:
        """Write the keys of sessions, with their numbers if they have begun."""
        self._write(SAVE_KEY, rows)

    def save_sessions(self, rows: Sequence[SessionRow]) -> None:
        """Write sessions and all their index entries."""
        self._write(SAVE_SESSION, rows)

    def save_sessions_in_place(self, rows: Sequence[SessionRow]) -> None:
        """Write sessions whose `place` has not changed; most indexes are not touched."""
        before = self._db.total_changes()
        self._write(SAVE_IN_PLACE, rows)
        if self._db.total_changes() - before != len(rows):
            raise AssertionError("a session is not where it was saved")

    def count_sessions(self, changes: Mapping[tuple[int, int], int]) -> None:
        """Change the numbers of sessions, by app and state."""
        self._write(COUNT_SESSIONS, [(*group, change) for group, change in changes.items()])

    def count_events(self, rows: Iterable[Sequence[int]]) -> None:
        """Change the numbers of callbacks; rows are those of `event_counts`, the last is added."""
        self._write(COUNT_EVENTS, rows)

    def add_rejection(self, position: int, event_revision: int) -> None:
        """Note that an event is rejected, as published at `position`."""
        self._write(ADD_REJECTION, [(position, event_revision)])

    def drop_rejection(self, event_revision: int) -> None:
        """Note that an event is no longer rejected."""
        self._write(DROP_REJECTION, [(event_revision,)])

    def load_session(self, key: SessionKey) -> SavedSession | None:
        """Read a session as last saved; None if no callback has named it."""
        rows = self._rows(LOAD_SESSION, key)
        if not rows:
            return None
        first_revision, number, full, fold, *place = rows[0]
        return SavedSession(first_revision, number, full, fold, tuple(place) if number else ())

    def load_history(self, first_revision: int) -> list[HistoryEntry]:
        """Read a session's history in order of revision, with what was published of it."""
        entries: dict[int, HistoryEntry] = {}
        with sqlite_errors():  # one by one: records may be large
            for revision, verdicts, agent_id, record in self._db.execute(
                LOAD_HISTORY, (first_revision,)
            ):
                each = entries[revision] = HistoryEntry.of(facts_of(record), revision)
                each.verdicts, each.agent_id = verdicts, agent_id
        for revision, verdicts in self._rows(LOAD_REVISIONS, (first_revision,)):
            entries[revision].verdicts = verdicts
        return list(entries.values())

    def types_without_history(self, first_revision: int) -> list[tuple[int, int]]:
        """Count, by type, the callbacks that a session had no room for."""
        return self._rows(TYPES_WITHOUT_HISTORY, (first_revision,))

    def refuse_history(self, first_revision: int) -> None:
        """Note the identities of all of a session's history, which is full."""
        history = self.load_history(first_revision)
        rows = sorted((each.facts.identity, first_revision) for each in history)
        self._write(ADD_REFUSED_ID, rows)

    def refuse(self, identity: bytes, owner: int) -> None:
        """Note the identity of an entry that is to be recognised without a history."""
        self._write(ADD_REFUSED_ID, [(identity, owner)])

    def owner_of(self, identity: bytes) -> int | None:
        """Return the owner of an identity that `refuse` has noted; None if it has not."""
        rows = self._rows(FIND_REFUSED_ID, (identity,))
        return int(rows[0][0]) if rows else None

    def refuses_any(self) -> bool:
        """Return True if `refuse` has noted any identity."""
        return bool(self._rows(ANY_REFUSED_ID))

    def add_repetition(self, owner: int, revision: int) -> None:
        """Note an entry that repeats one of a session, or a malformed one."""
        self._write(ADD_REPETITION, [(owner, revision)])

    def add_malformed(self, revision: int, key: SessionKey) -> None:
        """Note a malformed callback that names a session."""
        self._write(ADD_MALFORMED, [(revision, *key)])

    def removal(self, forget_revision: int) -> Removal:
        """Begin to remove what a FORGET entry lists."""
        self._to_clear = self._to_clear or FIRST
        self._left_from = min(self._left_from, forget_revision)
        self._removed_since = min(self._removed_since, forget_revision)
        self._db.pragma("user_version", 1)  # for the next process, if this one is killed
        return Removal(self._db, forget_revision)

    def note_forgotten(self, key: SessionKey, revision: int) -> None:
        """Note that a session was forgotten at a revision."""
        self._rows(ADD_FORGOTTEN, (*key, revision))

    def note_deleted(self, until: int) -> bool:
        """As `Projection.note_deleted`."""
        self._rows(DROP_DELETED, (until, DROPPED))
        return self._db.changes() < DROPPED

    # Not by `sqlite_errors`: the fold asks for each session.
    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return list(self._db.execute(sql, values))
        except apsw.Error as error:
            raise view_error(error) from error

    def _write(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        try:
            self._db.executemany(sql, rows)
        except apsw.Error as error:
            raise view_error(error) from error
