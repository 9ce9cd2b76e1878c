"""The one connection that writes the journal's file: commits, checkpoints, recovery from failure.

Used by one thread. After a failed commit the connection is not trusted again: it is closed, and the
next commit opens a new one and reads from it where the journal stands.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import apsw
import structlog
from msgspec.structs import astuple

from journal.entry import Appended, NewEntry
from journal.errors import JournalError, Unavailable
from journal.sqlite_file import Handle, connect_to_write, create, failure, lock

CHECKPOINT_PAGES = 1024
"""Pages of 4 KiB in the WAL after which they are moved to the database: 4 MiB. Nothing is committed
meanwhile, for some 5 ms; four times as many take 15 ms, which is what one ack in a hundred sees."""

# No revision is given: SQLite takes the next one, and none for an id that is there already.
INSERT = """
INSERT INTO entries (id, sdk_app_id, received_at, request_id, client_ip, platform, body, kind)
VALUES {rows} ON CONFLICT (id) DO NOTHING
"""
READ = "SELECT journal_id FROM header"
REWRITE = "UPDATE header SET only = only"
REVISIONS = "SELECT id, revision FROM entries WHERE id IN ({marks})"

log = structlog.get_logger()


class Writer:
    """Commits batches; holds the writer's lock."""

    def __init__(self, path: Path) -> None:
        """Take the lock; create the file if there is none, migrate it if it is of an older version.

        Raises:
            InUse, Unavailable, Unreadable: as `journal.errors` has it.
        """
        self._path = path
        self._failing = False
        self._wal_pages = 0
        self._checkpoint_at: int = CHECKPOINT_PAGES
        self._lock = lock(path)
        try:
            create(path)
            self._handle = Handle(path, self._connect)
        except BaseException:
            self._lock.release()
            raise

    def commit(self, entries: Sequence[NewEntry]) -> list[Appended]:
        """Make `entries` durable, all or none; of those that are there already, tell where.

        Raises:
            Unavailable: they could not be committed.
        """
        with self._writing() as connection:
            outcomes = _insert(connection, entries)
            # A hook would count exactly, but has to win the GIL back before all is done.
            self._wal_pages += connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)[0]
        return outcomes

    def check(self) -> None:
        """Raise if the file is gone or cannot be read, or after a failure still not be written.

        For when nothing is committed for long.

        Raises:
            Unavailable: as `commit` would.
        """
        with self._writing() as connection:
            connection.execute(REWRITE if self._failing else READ)

    def checkpoint(self) -> None:
        """Move the WAL to the database if it has grown, so that the next commit starts it anew.

        Waits for readers, but not long: one that holds on delays it to the next 4 MiB.
        """
        if self._wal_pages < self._checkpoint_at:
            return
        self._checkpoint_at = self._wal_pages + CHECKPOINT_PAGES
        try:
            self._handle.get().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            self._start_wal()
        except apsw.BusyError:
            log.warning("journal_checkpoint_delayed", wal_pages=self._wal_pages)
        except Exception as error:  # whatever it was, the committing thread must live on
            self._fail(error)

    def close(self) -> None:
        """Leave all entries in the database file itself, and let the next writer in."""
        with suppress(apsw.Error, OSError, JournalError):
            self._handle.get().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._handle.drop()
        self._lock.release()

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        """Give the connection. After an error, whatever it was, a transaction may be open."""
        try:
            yield self._handle.get()
        except Exception as error:
            self._fail(error)
            raise Unavailable(*failure(error, self._path).args) from error
        if self._failing:
            log.info("journal_recovered")
            self._failing = False

    def _connect(self, path: Path, journal_id: str) -> apsw.Connection:
        connection = connect_to_write(path, journal_id)
        self._start_wal()
        return connection

    def _start_wal(self) -> None:
        self._wal_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES

    def _fail(self, error: Exception) -> None:
        self._handle.drop()
        if not self._failing:
            log.error("journal_failed", error=str(failure(error, self._path)))
            self._failing = True


def _insert(connection: apsw.Connection, entries: Sequence[NewEntry]) -> list[Appended]:
    """Insert a batch in one statement, which is its own transaction.

    In one, because each statement gives the GIL away and has to win it back from the very
    threads that wait for it.
    """
    values = [field for entry in entries for field in astuple(entry)]
    connection.execute(_insert_rows(len(entries)), values)
    inserted = connection.changes()
    if inserted < len(entries):
        return _locate(connection, entries, inserted)
    head = connection.last_insert_rowid()
    return [Appended(revision, False) for revision in range(head - inserted + 1, head + 1)]


@cache
def _insert_rows(count: int) -> str:
    return INSERT.format(rows=", ".join(["(?, ?, ?, ?, ?, ?, ?, ?)"] * count))


def _locate(
    connection: apsw.Connection, entries: Sequence[NewEntry], inserted: int
) -> list[Appended]:
    """Find out where a batch stands of which only `inserted` entries were new."""
    query = REVISIONS.format(marks=", ".join("?" * len(entries)))
    revisions = dict(connection.execute(query, [entry.id for entry in entries]))
    new = set(sorted(revisions.values(), reverse=True)[:inserted])
    outcomes = []
    for entry in entries:
        revision = revisions[entry.id]
        outcomes.append(Appended(revision, revision not in new))
        new.discard(revision)
    return outcomes
