"""The journal as a SQLite file: on one machine, nothing to install and nothing to run.

One connection, in one process, writes and checkpoints; all others only read. The file must be on a
local file system: WAL and locks do not work on others.
"""
# ruff: noqa: D102 -- the port documents the methods

import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any, Self, TypeVar

import apsw
import structlog

from journal.entry import Appended, Entry, NewEntry, validate
from journal.errors import Closed, NotKept, NotWritable
from journal.group_commit import GroupCommit
from journal.port import READ_BYTES, Waiter
from journal.sqlite_file import Handle, connect_to_read, failure, value
from journal.sqlite_watch import WalWatch
from journal.sqlite_writer import Writer

CLOSE_TIMEOUT = 10.0
"""Seconds that `close` grants to appends under way."""

HEAD = "SELECT ifnull(max(revision), 0) FROM entries"
OLDEST = "SELECT ifnull(min(revision), 1) FROM entries"
READ = """
SELECT revision, id, sdk_app_id, received_at, request_id, client_ip, platform, body
FROM entries WHERE revision > ? ORDER BY revision LIMIT ?
"""

T = TypeVar("T")
log = structlog.get_logger()


class SqliteJournal:
    """`journal.port.Journal` on a file. Made by `open_writer` or `open_reader`."""

    def __init__(self, path: Path, writer: Writer | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reader = Handle(path, connect_to_read)
        self._watch = WalWatch(path)
        self._writer = writer
        self._commits = (
            GroupCommit(writer.commit, afterwards=writer.checkpoint, check=writer.check)
            if writer
            else None
        )

    @classmethod
    def open_writer(cls, path: Path) -> Self:
        """Open the journal at `path` as its only writer; create it if there is none.

        Raises:
            InUse: another process is its writer.
            Unavailable: the storage failed.
            Unreadable: what is there is no journal, of another version, or damaged.
        """
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            writer = Writer(path)
            try:
                return cls(path, writer)
            except BaseException:
                writer.close()
                raise
        except (apsw.Error, OSError) as error:
            raise failure(error, path) from error

    @classmethod
    def open_reader(cls, path: Path) -> Self:
        """Open the journal at `path` for reading.

        Raises:
            Unavailable: there is none yet, or the storage failed.
            Unreadable: what is there is no journal, of another version, or damaged.
        """
        try:
            return cls(path, None)
        except (apsw.Error, OSError) as error:
            raise failure(error, path) from error

    @property
    def id(self) -> str:
        return self._reader.journal_id

    def append(
        self,
        entry: NewEntry,
        *,
        timeout: float,
        event: Callable[[], Waiter] = threading.Event,
    ) -> Appended:
        validate(entry)
        return self._group().append(entry, timeout=timeout, event=event)

    def trouble(self) -> str:
        return self._commits.trouble() if self._commits else "opened for reading only"

    def _group(self) -> GroupCommit:
        if self._commits is None:
            raise NotWritable("this journal was opened for reading only")
        return self._commits

    def read(self, after: int, *, limit: int) -> list[Entry]:
        entries = self._ask(lambda connection: _entries(connection, after, limit))
        if entries and entries[0].revision != after + 1:
            raise NotKept(entries[0].revision)
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
        return self._ask(lambda connection: int(value(connection, OLDEST)))

    def close(self) -> None:
        with self._lock:
            first = not self._closed.is_set()
            self._closed.set()
            self._reader.drop()
            self._watch.close()
        if not first or self._commits is None or self._writer is None:
            return
        if self._commits.close(timeout=CLOSE_TIMEOUT):
            self._writer.close()
        else:  # its thread is inside the disk: only the end of the process frees the lock
            log.error("journal_close_timed_out", timeout=CLOSE_TIMEOUT)

    def _ask(self, question: Callable[[apsw.Connection], T]) -> T:
        with self._lock:
            if self._closed.is_set():
                raise Closed("the journal is closed")
            try:
                return question(self._reader.get())
            except (apsw.Error, OSError) as error:
                self._reader.drop()
                raise failure(error, self._path) from error


def _entries(connection: apsw.Connection, after: int, limit: int) -> list[Entry]:
    entries: list[Entry] = []
    room = READ_BYTES
    rows = connection.execute(READ, (after, limit))
    while room > 0 and (row := next(rows, None)):
        entries.append(_entry(row))
        room -= len(entries[-1].body)
    rows.close()  # an open statement would keep the WAL from being used again
    return entries


def _entry(row: tuple[Any, ...]) -> Entry:
    revision, id_, sdk_app_id, received_at, request_id, client_ip, platform, body = row
    return Entry(
        revision=revision,
        id=id_,
        sdk_app_id=sdk_app_id,
        received_at=received_at,
        request_id=request_id,
        client_ip=client_ip,
        platform=platform,
        body=body,
    )
