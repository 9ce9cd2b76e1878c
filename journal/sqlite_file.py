"""The journal's SQLite file: opened, locked and reopened.

Knows nothing of appending and reading. Never opens the file but through SQLite: closing any other
descriptor of it would drop the locks that SQLite holds in this process.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import apsw

from journal import sqlite_format
from journal.errors import InUse, JournalError, Unavailable, Unreadable
from journal.sqlite_format import VERSION, value
from storage.lock import FileLock

BUSY_MS = 200
"""Milliseconds to wait for another connection's lock; locks are held for a few at most."""

WAL_KEPT = 64 * 1024 * 1024
"""Bytes of the WAL file that are kept for reuse when a slow reader had made it grow."""

FULL = 2

Connect = Callable[[Path, str], apsw.Connection]
"""Opens the journal at a path; if it has another id than the one given, raises `Unreadable`."""


def lock(path: Path) -> FileLock:
    """Take the right to write the journal at `path`, without waiting.

    Raises:
        InUse: another process has it.
    """
    try:
        return FileLock(Path(f"{path}.lock"))
    except BlockingIOError:
        raise InUse(
            f"another process is writing {path}: stop it first, or use another directory"
        ) from None


class Handle:
    """A connection that is opened anew after a failure, or when its file was moved away.

    Not safe for use by several threads at once.

    Attributes:
        journal_id: of the journal first opened. Another one in its place is refused.
    """

    def __init__(self, path: Path, connect: Connect) -> None:
        self._path = path
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self.journal_id = ""
        self.journal_id = sqlite_format.journal_id(self.get())

    def get(self) -> apsw.Connection:
        """Return the open connection, or open one.

        Raises:
            apsw.Error: it cannot be opened.
            Unavailable: there is no journal.
            Unreadable: there is another one, or none of ours.
        """
        if self._connection is None or self._file != _identity(self._path):
            self.drop()
            self._connection = self._connect(self._path, self.journal_id)
            self._file = _identity(self._path)
        return self._connection

    def drop(self) -> None:
        """Close the connection, for what the disk makes of it; what was open is rolled back."""
        if self._connection is not None:
            with suppress(apsw.Error):
                self._connection.close(True)
            self._connection = None


def create(path: Path) -> None:
    """Make `path` a journal if nothing is stored there. For the holder of the lock."""
    path.touch(mode=0o600)
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
    if sqlite_format.is_empty(connection):
        _prepare_to_write(connection)
        sqlite_format.create(connection)
    connection.close()


def connect_to_write(path: Path, journal_id: str) -> apsw.Connection:
    """Open an existing journal as its writer; bring it to our version if it is of an older one.

    Commits that a crash left in the WAL are moved to the database first: they were read back from
    memory and may never have reached the disk, and what follows must not depend on them.
    """
    connection = _connect(path, apsw.SQLITE_OPEN_READWRITE)
    version = _check(connection, path, journal_id)
    _prepare_to_write(connection)
    with suppress(apsw.BusyError):  # somebody has it open: then it is not a WAL left by a crash
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    sqlite_format.migrate(connection, version, str(path))
    return connection


def connect_to_read(path: Path, journal_id: str) -> apsw.Connection:
    """Open an existing journal as one of its readers."""
    connection = _connect(path, apsw.SQLITE_OPEN_READONLY)
    version = _check(connection, path, journal_id)
    if version != VERSION:
        raise Unavailable(
            f"{path} is of version {version}; its writer migrates it: start the gateway"
        )
    with suppress(FileNotFoundError):
        _sync(f"{path}-wal")
    return connection


def failure(error: Exception, path: Path) -> JournalError:
    """Return the journal's error for what went wrong below it."""
    if isinstance(error, JournalError):
        return error
    if isinstance(error, apsw.NotADBError):
        return Unreadable(f"{path} is not a journal")
    if isinstance(error, apsw.CorruptError):
        return Unreadable(f"{path} is damaged: {error}")
    return Unavailable(f"{path}: {type(error).__name__}: {error}")


def _connect(path: Path, flags: int) -> apsw.Connection:
    if not path.is_file():
        raise Unavailable(f"there is no journal at {path} yet")
    connection = apsw.Connection(str(path), flags=flags)
    connection.set_busy_timeout(BUSY_MS)
    # Closing must not clean up by name: the files there may be another journal's by then.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection


def _check(connection: apsw.Connection, path: Path, journal_id: str) -> int:
    """Return the version of the journal, which must have `journal_id`, unless that is empty."""
    version = sqlite_format.version(connection, str(path))
    if journal_id not in ("", sqlite_format.journal_id(connection)):
        raise Unreadable(f"{path} was replaced by another journal: start again")
    return version


def _prepare_to_write(connection: apsw.Connection) -> None:
    mode = value(connection, "PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT}")
    if mode != "wal" or value(connection, "PRAGMA synchronous") != FULL:
        raise Unavailable("SQLite would not be durable here: is this a local file system?")
    connection.wal_autocheckpoint(0)  # the writer does it, after a commit was acknowledged


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the file's number: SQLite goes on writing a file that was deleted, without error."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _sync(path: str) -> None:
    """Sync a WAL: SQLite reads what a crash left in it as committed, durable or not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
