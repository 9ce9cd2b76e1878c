"""The journal's SQLite file: created, opened and reopened.

Knows nothing of appending and reading. Opens the file through SQLite only: closing another
descriptor of it would drop the locks that SQLite holds in this process.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import ge
from pathlib import Path

import apsw
import structlog

from journal import sqlite_format
from journal.errors import Damaged, InUse, Unavailable, Unreadable
from storage.files import DatabaseFiles
from storage.sizes import size_of_database

BUSY_MS = 200
"""Milliseconds to wait for another connection's lock; locks are held for a few at most."""

COMMIT_MS = 1_000
"""The same for a commit: an eraser that empties the WAL waits for the disk as well."""

WAL_KEPT = 64 * 1024 * 1024
"""Bytes of the WAL that are kept for reuse after a slow reader had made it grow."""

FULL = 2
"""The number of `PRAGMA synchronous = FULL`."""

WAL_HEADER, FRAME_HEADER = 32, 24
"""Bytes before the first page in a WAL, and before each (sqlite.org/fileformat2.html#walformat)."""

LOOKS = 5
"""Looks at files that change meanwhile."""

Connect = Callable[[Path, str], apsw.Connection]
"""Opens the journal at a path. Raises `Unreadable` if its id is another than the one given."""

log = structlog.get_logger()


class Handle:
    """A connection that is opened anew after a failure, or after one of its files was moved away.

    Not safe for use by several threads at once.

    Attributes:
        journal_id: of the journal first opened. Another one in its place is refused.
    """

    def __init__(
        self, path: Path, connect: Connect, *, on_replaced: Callable[[], None] = lambda: None
    ) -> None:
        """Open the journal.

        Args:
            path: of the database.
            connect: opens it.
            on_replaced: closes this process's other connections, which share the -shm file.
        """
        self._path = path
        self._on_replaced = on_replaced
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._files = DatabaseFiles.at(path)
        self._sizes = (0, 0)
        self.journal_id = ""
        with self.connection() as connection:
            self.journal_id = sqlite_format.journal_id(connection)

    @contextmanager
    def connection(self) -> Iterator[apsw.Connection]:
        """Give the open connection, or open one; close it if the block fails.

        Raises:
            Unavailable: there is no journal, or the storage failed.
            Unreadable: there is another journal, a file of another kind, or damage.
        """
        with map_errors(self._path):
            connection = self._get()
            try:
                yield connection
            except Exception:  # whatever it was, a transaction may be open
                self.drop()
                raise
            if not connection.readonly("main"):
                self._sizes = size_of_database(self._path)

    def save_wal(self) -> None:
        """Move the writer's commits to the database if the WAL that has them was deleted.

        Raises:
            apsw.Error: that is not possible now; they are only in the open, deleted file.
        """
        connection, now = self._connection, DatabaseFiles.at(self._path)
        if connection is None or connection.readonly("main"):
            return
        if not self._files.written_at(now) and now.database == self._files.database:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def drop(self) -> None:
        """Close the connection, even if the disk fails; an open transaction is rolled back.

        A connection that has the only copy of commits stays open, until they can be saved.
        """
        connection = self._connection
        if connection is None:
            return
        with suppress(apsw.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        try:
            self.save_wal()
        except apsw.Error:
            return
        with suppress(apsw.Error):
            connection.close(True)
        self._connection = None

    def _get(self) -> apsw.Connection:
        if self._connection is not None:
            is_cut = self._is_cut(self._connection)
            # Looked at last: a file that was deleted meanwhile has no size, and is not truncated.
            if self._is_outdated(self._connection):
                self.save_wal()
                log.warning("journal_file_replaced", journal=str(self._path))
                self.drop()
                self._on_replaced()
            elif is_cut:
                self._leave_truncated(self._connection)
        if self._connection is None:
            before = DatabaseFiles.at(self._path).database
            self._connection = self._connect(self._path, self.journal_id)
            now = DatabaseFiles.at(self._path)
            # A database that was replaced meanwhile is noticed by the next look.
            self._files = now._replace(database=before or now.database)
        return self._connection

    def _is_cut(self, connection: apsw.Connection) -> bool:
        """Return True if files of the writer lack what the connection counts on."""
        if connection.readonly("main"):
            return False
        now = size_of_database(self._path)
        if all(map(ge, now, self._sizes)):
            return False
        with suppress(apsw.CorruptError):
            if _is_whole(connection, self._path):  # an eraser has made them smaller
                self._sizes = now
                return False
        return True

    def _leave_truncated(self, connection: apsw.Connection) -> None:
        """Close the writer's connection after its files were truncated without SQLite.

        SQLite would not notice: it moves the pages of the WAL that its index lists to the database,
        also those that are gone, as zeros.
        """
        now = size_of_database(self._path)
        log.error("journal_file_truncated", journal=str(self._path), sizes=now, before=self._sizes)
        if now[1] < self._sizes[1]:
            connection.close(True)
            self._connection = None
            Path(f"{self._path}-shm").unlink(missing_ok=True)  # it is made anew of what is left
        else:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.drop()
        self._on_replaced()

    def _is_outdated(self, connection: apsw.Connection) -> bool:
        now = DatabaseFiles.at(self._path)
        if connection.readonly("main"):
            return self._files.replaced_by(now)
        return not self._files.written_at(now)


def _is_whole(connection: apsw.Connection, path: Path) -> bool:
    """Return True if the WAL has all frames that its index lists, and the database all pages.

    Looks again while another connection changes them.
    """
    size = connection.pragma("page_size")
    for _ in range(LOOKS):
        pages = connection.pragma("page_count")
        frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
        database, wal = size_of_database(path)
        has_frames = frames == 0 or wal >= WAL_HEADER + frames * (size + FRAME_HEADER)
        if has_frames and database >= pages * size:
            return True
    return False


@contextmanager
def map_errors(path: Path | str) -> Iterator[None]:
    """Raise the journal's errors for those of the storage below it."""
    try:
        yield
    except BlockingIOError as error:  # of the writer's lock
        raise InUse(
            f"another process is writing {path}: stop it first, or use another directory"
        ) from error
    except apsw.NotADBError as error:
        raise Unreadable(f"{path} is not a journal") from error
    except apsw.CorruptError as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    except (apsw.Error, OSError) as error:
        raise Unavailable(f"{path}: {type(error).__name__}: {error}") from error


def connect_to_write(path: Path, journal_id: str) -> apsw.Connection:
    """Open a journal as its writer; migrate one of an older version.

    Creates it if nothing is stored there, but only when it is opened first, with no id.

    Commits that a crash left in the WAL are moved to the database first: they were read back from
    memory and may never have reached the disk, and later commits must not depend on them.
    """
    if not journal_id:
        path.touch(mode=0o600)
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
    if not journal_id and sqlite_format.is_empty(connection):
        _prepare_to_write(connection)
        sqlite_format.create(connection)
    version = _check(connection, path, journal_id)
    _prepare_to_write(connection)
    with suppress(apsw.BusyError):  # another process has it open: no crash left this WAL
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    sqlite_format.migrate(connection, version, str(path))
    connection.set_busy_timeout(COMMIT_MS)
    connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE, True)  # count pages from here on
    return connection


def connect_to_erase(path: Path, journal_id: str) -> apsw.Connection:
    """Open an existing journal to forget entries, beside its writer."""
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
    _check_current(connection, path, journal_id)
    _prepare_to_write(connection)
    connection.pragma("secure_delete", "on")
    return connection


def connect_to_read(path: Path, journal_id: str) -> apsw.Connection:
    """Open an existing journal as one of its readers."""
    connection = open_read_only(path)
    _check_current(connection, path, journal_id)
    # SQLite reads the commits that a crash left in the WAL, durable or not.
    with suppress(FileNotFoundError), Path(f"{path}-wal").open("rb") as wal:
        os.fsync(wal)
    return connection


def open_read_only(path: Path) -> apsw.Connection:
    """Open a file of any content for reading. The caller must check that it is a journal."""
    return _connect(path, apsw.SQLITE_OPEN_READONLY)


def _connect(path: Path, flags: int) -> apsw.Connection:
    if not path.is_file():
        raise Unavailable(f"there is no journal at {path} yet")
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(BUSY_MS)
    # Closing must not delete files by name: they may be another journal's by then.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def _check(connection: apsw.Connection, path: Path, journal_id: str) -> int:
    """Return the version of the journal, which must have `journal_id`, unless that is empty."""
    version = sqlite_format.version(connection, str(path))
    if journal_id not in ("", sqlite_format.journal_id(connection)):
        raise Unreadable(f"{path} was replaced by another journal: start again")
    return version


def _check_current(connection: apsw.Connection, path: Path, journal_id: str) -> None:
    """Refuse a journal of an older version."""
    version = _check(connection, path, journal_id)
    if version != sqlite_format.VERSION:
        raise Unavailable(
            f"{path} is of version {version}; its writer migrates it: start the gateway"
        )


def _prepare_to_write(connection: apsw.Connection) -> None:
    sqlite_format.prepare_to_forget(connection)
    mode = connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", FULL)
    connection.pragma("journal_size_limit", WAL_KEPT)
    if mode != "wal" or connection.pragma("synchronous") != FULL:
        raise Unavailable("SQLite would not be durable here: is this a local file system?")
    connection.wal_autocheckpoint(0)  # the writer does it, after a commit was acknowledged
