"""The one connection that writes the journal's file: commits, checkpoints, recovery from failure.

Used by one thread. After a failed commit the connection is not trusted again: it is closed, and the
next commit opens a new one and reads the journal's state from it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import apsw
import structlog
from msgspec.structs import astuple

from journal.entry import Appended, NewEntry
from journal.errors import JournalError, Unavailable
from journal.sqlite_file import BUSY_MS, COMMIT_MS, Handle, connect_to_write, map_errors
from metrics.definitions import DUPLICATES
from storage.lock import FileLock

CHECKPOINT_PAGES = 1024
"""Pages of 4 KiB in the WAL after which they are moved to the database. Nothing is committed
meanwhile: more pages make fewer, but longer pauses."""

BRIEFLY_MS = 20
"""Milliseconds that a checkpoint waits for readers, once it has waited for them in vain."""

# No revision is given: SQLite takes the next one, and none for an id that is there already.
INSERT = "INSERT INTO entries ({columns}) VALUES {rows} ON CONFLICT (id) DO NOTHING"
READ = "SELECT journal_id FROM header"
REWRITE = "UPDATE header SET only = only"
REVISIONS = "SELECT id, revision FROM entries WHERE id IN ({marks})"

log = structlog.get_logger()


class Writer:
    """The holder of the writer's lock, which commits batches."""

    def __init__(
        self,
        path: Path,
        *,
        checkpoint_pages: int = CHECKPOINT_PAGES,
        on_replaced: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the lock; create the file if there is none, migrate it if it is of an older version.

        Raises:
            InUse, Unavailable, Unreadable: as `journal.errors` has it.
        """
        self._checkpoint_pages = checkpoint_pages
        self._pages = 0  # written to the WAL since the last checkpoint, or the last try
        self._failing = False
        self._delayed = False  # the last checkpoint was
        with map_errors(path):
            self._lock = FileLock(Path(f"{path}.lock"))
        try:
            self._handle = Handle(path, connect_to_write, on_replaced=on_replaced)
        except BaseException:
            self._lock.release()
            raise

    def commit(self, entries: Sequence[NewEntry]) -> list[Appended]:
        """Make `entries` durable, all or none; return the place of each, in order.

        Raises:
            Unavailable: they could not be committed.
        """
        with self._writing() as connection:
            outcomes = _insert(connection, entries)
            self._handle.save_wal()  # a commit to a deleted file would end with the process
            # A hook would count exactly, but has to acquire the GIL for each commit.
            self._pages += connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0]
        return outcomes

    def check(self) -> None:
        """Check the file while nothing is committed: readable and, after a failure, writable.

        Raises:
            Unavailable: as `commit` would.
        """
        with self._writing() as connection:
            connection.execute(REWRITE if self._failing else READ)

    def checkpoint(self) -> None:
        """Move the WAL to the database if it has grown. The next commit starts the WAL anew.

        Waits for readers, but not long: a busy reader delays it by `checkpoint_pages`. As long as
        one does so, as a backup may for minutes, the next attempts wait only briefly.
        """
        if self._pages < self._checkpoint_pages:
            return
        self._pages = 0
        with suppress(Unavailable), self._writing() as connection:
            connection.set_busy_timeout(BRIEFLY_MS if self._delayed else BUSY_MS)
            try:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
                self._delayed = False
            except apsw.BusyError:
                if not self._delayed:
                    log.warning("journal_checkpoint_delayed")
                self._delayed = True
            finally:
                connection.set_busy_timeout(COMMIT_MS)

    def close(self) -> None:
        """Leave all entries in the database file itself, and release the lock."""
        with suppress(JournalError), self._handle.connection() as connection:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._handle.drop()
        self._lock.release()

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        try:
            with self._handle.connection() as connection:
                yield connection
        except Exception as error:
            self._note(error)
            raise Unavailable(str(error)) from error
        self._note(None)

    def _note(self, error: Exception | None) -> None:
        """Log the first failure, and the end of failures."""
        if error and not self._failing:
            log.error("journal_failed", error=str(error))
        elif self._failing and not error:
            log.info("journal_recovered")
        self._failing = error is not None


def _insert(connection: apsw.Connection, entries: Sequence[NewEntry]) -> list[Appended]:
    """Insert a batch in one statement, which is its own transaction.

    Each statement releases the GIL, and competes for it with the threads that wait for the commit.
    """
    values = [field for entry in entries for field in astuple(entry)]
    connection.execute(_insert_rows(len(entries)), values)
    inserted = connection.changes()
    if inserted < len(entries):
        DUPLICATES.values[("append",)] += len(entries) - inserted
        return _locate(connection, entries, inserted)
    head = connection.last_insert_rowid()
    return [Appended(revision, False) for revision in range(head - inserted + 1, head + 1)]


@cache
def _insert_rows(count: int) -> str:
    columns = NewEntry.__struct_fields__
    row = f"({', '.join('?' * len(columns))})"
    return INSERT.format(columns=", ".join(columns), rows=", ".join([row] * count))


def _locate(
    connection: apsw.Connection, entries: Sequence[NewEntry], inserted: int
) -> list[Appended]:
    """Return the places of a batch of which only `inserted` entries were new."""
    query = REVISIONS.format(marks=", ".join("?" * len(entries)))
    revisions = dict(connection.execute(query, [entry.id for entry in entries]))
    new = set(sorted(revisions.values(), reverse=True)[:inserted])
    outcomes = []
    for entry in entries:
        revision = revisions[entry.id]
        outcomes.append(Appended(revision, revision not in new))
        new.discard(revision)
    return outcomes
