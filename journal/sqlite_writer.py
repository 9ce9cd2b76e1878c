"""The one connection that writes the journal's file: commits, checkpoints, recovery from failure.

Used by one thread. After a failed commit the connection is not trusted again: it is closed, and the
next commit opens a new one and reads from it where the journal stands.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import apsw
import structlog

from journal.entry import Appended, NewEntry
from journal.errors import JournalError, Unavailable
from journal.sqlite_file import Handle, WriterLock, connect_to_write, create, failure, value

CHECKPOINT_PAGES = 4096
"""Pages of 4 KiB in the WAL after which they are moved to the database: 16 MiB."""

HEAD = "SELECT ifnull(max(revision), 0) FROM entries"
INSERT = """
INSERT INTO entries (revision, id, sdk_app_id, received_at, request_id, client_ip, platform, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING
"""
REVISION_OF = "SELECT revision FROM entries WHERE id = ?"

log = structlog.get_logger()


class Writer:
    """Commits batches; holds the writer's lock."""

    def __init__(self, path: Path) -> None:
        """Take the lock, and create the file if there is none.

        Raises:
            InUse, Unavailable, Unreadable: as `journal.errors` has it.
        """
        self._path = path
        self._failing = False
        self._wal_pages = 0
        self._checkpoint_at: int = CHECKPOINT_PAGES
        self._lock = WriterLock(path)
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
        try:
            outcomes = self._transact(self._handle.get(), entries)
        except Exception as error:  # whatever it was, a transaction may be open
            self._fail(error)
            raise Unavailable(*failure(error, self._path).args) from error
        if self._failing:
            log.info("journal.recovered")
            self._failing = False
        return outcomes

    def checkpoint(self) -> None:
        """Move the WAL to the database if it has grown, so that the next commit starts it anew.

        Waits for readers, but not long: one that holds on delays it to the next 16 MiB.
        """
        if self._wal_pages < self._checkpoint_at:
            return
        self._checkpoint_at = self._wal_pages + CHECKPOINT_PAGES
        try:
            self._handle.get().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
            self._start_wal()
        except apsw.BusyError:
            log.warning("journal.checkpoint_delayed", wal_pages=self._wal_pages)
        except (apsw.Error, OSError, JournalError) as error:
            self._fail(error)

    def close(self) -> None:
        """Leave all entries in the database file itself, and let the next writer in."""
        with suppress(apsw.Error, OSError, JournalError):
            self._handle.get().wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._handle.drop()
        self._lock.release()

    def _connect(self, path: Path, journal_id: str) -> apsw.Connection:
        connection = connect_to_write(path, journal_id)
        connection.set_wal_hook(self._committed)
        self._start_wal()
        return connection

    def _start_wal(self) -> None:
        self._wal_pages = 0
        self._checkpoint_at = CHECKPOINT_PAGES

    def _committed(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _fail(self, error: Exception) -> None:
        self._handle.drop()
        if not self._failing:
            log.error("journal.failed", error=str(failure(error, self._path)))
            self._failing = True

    def _transact(self, connection: apsw.Connection, entries: Sequence[NewEntry]) -> list[Appended]:
        connection.execute("BEGIN IMMEDIATE")
        head: int = value(connection, HEAD)
        outcomes: list[Appended] = []
        for entry in entries:
            outcome = _insert(connection, entry, head + 1)
            head = max(head, outcome.revision)
            outcomes.append(outcome)
        connection.execute("COMMIT")
        return outcomes


def _insert(connection: apsw.Connection, entry: NewEntry, revision: int) -> Appended:
    connection.execute(
        INSERT,
        (
            revision,
            entry.id,
            entry.sdk_app_id,
            entry.received_at,
            entry.request_id,
            entry.client_ip,
            entry.platform,
            entry.body,
        ),
    )
    if connection.changes():
        return Appended(revision=revision, duplicate=False)
    first: int = connection.execute(REVISION_OF, (entry.id,)).get
    return Appended(revision=first, duplicate=True)
