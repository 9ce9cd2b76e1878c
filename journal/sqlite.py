"""The journal as a SQLite file: on one machine, nothing to install and nothing to run.

One connection, in one process, writes and checkpoints; all others only read. The file must be on a
local file system: WAL and locks do not work on others.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TypeVar

import apsw
import structlog

from journal.entry import Appended, Entry, NewEntry, validate
from journal.errors import Closed, NotKept
from journal.group_commit import GroupCommit
from journal.port import READ_BYTES, Waiter
from journal.sqlite_file import Handle, connect_to_read, failure
from journal.sqlite_format import value
from journal.sqlite_writer import Writer
from storage.watch import WalWatch

CLOSE_TIMEOUT = 10.0
"""Seconds that `close` grants to appends under way."""

HEAD = "SELECT ifnull(max(revision), 0) FROM entries"
OLDEST = "SELECT oldest_revision FROM header"
COLUMNS = Entry.__struct_fields__
READ = """
SELECT {columns} FROM entries WHERE revision > ? ORDER BY revision LIMIT ?
""".format(columns=", ".join(COLUMNS))

T = TypeVar("T")
log = structlog.get_logger()


class SqliteReader:
    """`journal.port.JournalReader` on a file."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path` for reading.

        Raises:
            Unavailable: there is none yet, it is of an older version, or the storage failed.
            Unreadable: what is there is no journal, of a newer version, or damaged.
        """
        self._path = path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        with _failures_of(path):
            self._reader = Handle(path, connect_to_read)
        self._watch = WalWatch(path)

    @property
    def id(self) -> str:
        return self._reader.journal_id

    def read(self, after: int, *, limit: int) -> list[Entry]:
        # Entries first: `oldest_revision` is raised before entries go, so none can go unnoticed.
        entries, oldest = self._ask(
            lambda connection: (_entries(connection, after, limit), _oldest(connection))
        )
        if after < oldest - 1:
            raise NotKept(oldest)
        return entries

    def wait(self, after: int, *, timeout: float) -> bool:
        end = monotonic() + timeout
        while self.head() <= after:
            left = end - monotonic()
            if left <= 0:
                return False
            self._watch.sleep(left)
            if self._closed.is_set():
                return False
        return True

    def head(self) -> int:
        return self._ask(lambda connection: int(value(connection, HEAD)))

    def oldest(self) -> int:
        return self._ask(_oldest)

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            self._reader.drop()
            self._watch.close()

    def _ask(self, question: Callable[[apsw.Connection], T]) -> T:
        with self._lock:
            if self._closed.is_set():
                raise Closed("the journal is closed")
            try:
                return question(self._reader.get())
            except (apsw.Error, OSError) as error:
                self._reader.drop()
                raise failure(error, self._path) from error


class SqliteWriter(SqliteReader):
    """`journal.port.Journal` on a file: its only writer, which can read it as well."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path` for writing; create it if there is none, migrate an older one.

        Raises:
            InUse: another process is its writer.
            Unavailable: the storage failed.
            Unreadable: what is there is no journal, of a newer version, or damaged.
        """
        with _failures_of(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._writer = Writer(path)
        try:
            super().__init__(path)
        except BaseException:
            self._writer.close()
            raise
        writer = self._writer
        self._commits = GroupCommit(writer.commit, afterwards=writer.checkpoint, check=writer.check)

    def append(
        self,
        entry: NewEntry,
        *,
        timeout: float,
        event: Callable[[], Waiter] = threading.Event,
    ) -> Appended:
        validate(entry)
        return self._commits.append(entry, timeout=timeout, event=event)

    def trouble(self) -> str:
        return self._commits.trouble()

    def close(self) -> None:
        if self._closed.is_set():
            return
        super().close()
        if self._commits.close(timeout=CLOSE_TIMEOUT):
            self._writer.close()
        else:  # its thread is inside the disk: only the end of the process frees the lock
            log.error("journal_close_timed_out", timeout=CLOSE_TIMEOUT)


@contextmanager
def _failures_of(path: Path) -> Iterator[None]:
    """Raise the journal's errors for those of the storage below it."""
    try:
        yield
    except (apsw.Error, OSError) as error:
        raise failure(error, path) from error


def _oldest(connection: apsw.Connection) -> int:
    return int(value(connection, OLDEST))


def _entries(connection: apsw.Connection, after: int, limit: int) -> list[Entry]:
    """Read entries up to the first that is damaged.

    Raises:
        apsw.CorruptError: the first is damaged.
    """
    entries: list[Entry] = []
    try:
        for entry in _rows(connection, after, limit):
            entries.append(entry)  # noqa: PERF402 -- those before a damaged one are kept
    except (apsw.CorruptError, UnicodeDecodeError) as error:
        if not entries:
            raise apsw.CorruptError(f"the entry after revision {after}: {error}") from error
    return entries


def _rows(connection: apsw.Connection, after: int, limit: int) -> Iterator[Entry]:
    room = READ_BYTES
    rows = connection.execute(READ, (after, limit))
    try:
        while room > 0 and (row := next(rows, None)):
            yield (entry := Entry(**dict(zip(COLUMNS, row, strict=True))))
            room -= len(entry.body)
    finally:
        rows.close()  # an open statement would keep the WAL from being used again
