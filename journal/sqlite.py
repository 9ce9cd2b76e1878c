"""The journal as a SQLite file: on one machine, nothing to install and nothing to run.

One connection, in one process, writes and checkpoints; all others only read. The file must be on a
local file system: WAL and locks do not work on others.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import apsw
import structlog

from journal.entry import Appended, Entry, NewEntry, validate
from journal.errors import Closed, NotKept
from journal.group_commit import LIMITS, CommitLimits, GroupCommit
from journal.port import Waiter
from journal.sqlite_file import Handle, connect_to_read, map_errors
from journal.sqlite_page import HEAD, OutOfOrder, read_page
from journal.sqlite_writer import CHECKPOINT_PAGES, Writer
from metrics.definitions import HEAD_REVISION, JOURNAL_SIZE, OLDEST_REVISION
from storage.sizes import size_of_database
from storage.watch import WalWatch

CLOSE_TIMEOUT = 10.0
"""Seconds that `close` grants to appends under way."""

OLDEST = "SELECT oldest_revision FROM header"

log = structlog.get_logger()


class SqliteReader:
    """`journal.port.JournalReader` on a file."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path` for reading.

        Raises:
            Unavailable: there is none yet, it is of an older version, or the storage failed.
            Unreadable: it is no journal, of a newer version, or damaged.
        """
        self._path = path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._handle = Handle(path, connect_to_read)
        self.id = self._handle.journal_id
        self._idle_watches: list[WalWatch] = []

    def read(self, after: int, *, limit: int) -> list[Entry]:
        with self._reading() as connection:
            # Entries first: `oldest_revision` is raised before entries are removed.
            entries, problem = read_page(connection, after, limit)
            if isinstance(problem, OutOfOrder):
                entries = entries[:-1]  # the next page begins with it, and not behind the fault
            if problem and not entries:
                raise apsw.CorruptError(f"the entry after revision {after}: {problem}") from problem
            oldest = int(connection.execute(OLDEST).get)
        if after < oldest - 1:
            raise NotKept(oldest)
        return entries

    def wait(self, after: int, *, timeout: float) -> bool:
        end = monotonic() + timeout
        with self._watch() as watch:
            while self.head() <= after:
                left = end - monotonic()
                if left <= 0:
                    return False
                watch.sleep(left)
                if self._closed.is_set():
                    return False
        return True

    def head(self) -> int:
        with self._reading() as connection:
            return int(connection.execute(HEAD).get)

    def oldest(self) -> int:
        """Return the oldest revision that may still be there."""
        with self._reading() as connection:
            return int(connection.execute(OLDEST).get)

    def release(self) -> None:
        """Close the files; the next read opens them again."""
        with self._lock:
            self._handle.drop()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            self._handle.drop()
            while self._idle_watches:
                self._idle_watches.pop().close()

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        with self._lock:
            if self._closed.is_set():
                raise Closed("the journal is closed")
            with self._handle.connection() as connection:
                yield connection

    @contextmanager
    def _watch(self) -> Iterator[WalWatch]:
        """Lend a watch to a thread that waits."""
        with self._lock:
            watch = self._idle_watches.pop() if self._idle_watches else WalWatch(self._path)
        try:
            yield watch
        finally:
            with self._lock:
                if self._closed.is_set():
                    watch.close()
                else:
                    self._idle_watches.append(watch)


class SqliteWriter(SqliteReader):
    """`journal.port.Journal` on a file: its only writer, which can read it as well."""

    def __init__(
        self,
        path: Path,
        *,
        limits: CommitLimits = LIMITS,
        checkpoint_pages: int = CHECKPOINT_PAGES,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        """Open the journal at `path` for writing; create it if there is none, migrate an older one.

        Raises:
            InUse: another process is its writer.
            Unavailable: the storage failed.
            Unreadable: it is no journal, of a newer version, or damaged.
        """
        with map_errors(path):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._close_timeout = close_timeout
        self._writer = writer = Writer(
            path, checkpoint_pages=checkpoint_pages, on_replaced=self.release
        )
        try:
            super().__init__(path)
        except BaseException:
            writer.close()
            raise
        self._commits = GroupCommit(
            writer.commit, afterwards=writer.checkpoint, check=writer.check, limits=limits
        )
        HEAD_REVISION.read_number(self.head)
        OLDEST_REVISION.read_number(self.oldest)
        JOURNAL_SIZE.read_number(lambda: sum(size_of_database(path)))

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        validate(entry)
        return self._commits.append(entry, timeout=timeout, event=event)

    def trouble(self) -> str:
        return self._commits.trouble()

    def close(self) -> None:
        if self._closed.is_set():
            return
        super().close()
        if self._commits.close(timeout=self._close_timeout):
            self._writer.close()
        else:  # its thread is inside the disk: only the end of the process frees the lock
            log.error("journal_close_timed_out", timeout=self._close_timeout)
