"""Forgetting in a journal's SQLite file, beside the process that writes it.

Works in short transactions, with pauses: SQLite lets one connection write at a time, and the
writer waits for the others. Each call opens a connection of its own, so that none goes on in a file
that was replaced.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from time import monotonic

import apsw
from msgspec.structs import astuple

from journal import sqlite_format
from journal.entry import NewEntry, validate
from journal.errors import Unavailable
from journal.sqlite_file import connect_to_erase, map_errors
from storage.gaps import Pages, clear_beside_writers, move_wal, open_pages

BUSY_MS = 5_000
"""Milliseconds that a step waits for the writer, which commits in a few."""

STEP = 0.002
"""Seconds that a step should take: the writer waits for as long."""

ROWS = 256
"""Entries that are deleted in one step, if that is fast enough."""

PAGES = 4
"""Pages that are given back to the file system in one step. SQLite returns after each, and the GIL
may be taken then."""

REST, MOST_REST = 9.0, 1.0
"""Length of the pause after a step, as a multiple of the step, and in seconds at most."""

CLEARED = 100
"""Pages after which their gaps are cleared, in one step."""

READ_REST = 3.0
"""The multiple after reading pages, which delays the threads of this process only."""

WAL_PAGES = 4_096
"""Pages in the WAL after which they are moved to the database: a writer that is idle does not."""

TRUNCATE_MS = 20
"""Milliseconds that the truncation of the WAL waits for readers; nobody can write meanwhile."""

ATTEMPTS, AGAIN = 20, 0.1
"""Attempts to truncate the WAL, and seconds between two."""

INSERT = "INSERT INTO entries ({columns}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
FIND = "SELECT revision FROM entries WHERE id = ?"
# One statement is one transaction: nothing waits for the GIL while it holds the lock. The newest
# row stays: SQLite would give its number to the next one.
DELETE = """
DELETE FROM entries WHERE revision IN (SELECT value FROM json_each(?))
AND revision < (SELECT max(revision) FROM entries)
"""
VACUUM = f"PRAGMA incremental_vacuum({PAGES})"

IS_READ = "a reader keeps deleted entries in the WAL"

INCREMENTAL = 2
"""The number of `PRAGMA auto_vacuum = INCREMENTAL`."""


class SqliteEraser:
    """`journal.port.Eraser` on a file."""

    def __init__(self, path: Path) -> None:
        """Open the journal at `path`. Another one in its place is refused later.

        Raises:
            Unavailable: there is none yet, it is of an older version, or the storage failed.
            Unreadable: it is no journal, or of a newer version.
        """
        self._path = path
        self._rows = 1
        self.id = ""
        with self._connection() as connection:
            self.id = sqlite_format.journal_id(connection)

    def forget(self, entry: NewEntry) -> int:
        validate(entry)
        columns = NewEntry.__struct_fields__
        insert = INSERT.format(columns=", ".join(columns), marks=", ".join("?" * len(columns)))
        with self._connection() as connection:
            connection.execute(insert, astuple(entry))
            revision = int(connection.execute(FIND, (entry.id,)).get)
            # The writer takes a file for truncated that has become smaller and grown in the WAL.
            move_wal(connection)
        return revision

    def delete(self, revisions: Sequence[int]) -> None:
        done = 0
        with self._connection() as connection:
            _let_others_sync(connection)
            while done < len(revisions):
                step = json.dumps(revisions[done : done + self._rows])
                done += self._rows
                began = monotonic()
                connection.execute(DELETE, (step,))
                took = _rest_after(began)
                fitting = int(self._rows * STEP / took)
                self._rows = min(max(1, fitting), 2 * self._rows, ROWS)

    def sweep(self) -> None:
        with self._connection() as connection:
            _let_others_sync(connection)
            if connection.pragma("auto_vacuum") == INCREMENTAL:
                for _ in range(0, connection.pragma("freelist_count"), PAGES):
                    began = monotonic()
                    connection.execute(VACUUM).fetchall()
                    _rest_after(began)
            _truncate_wal(connection)
            self._clear_gaps(connection)
            _truncate_wal(connection)  # which syncs what was cleared

    def _clear_gaps(self, connection: apsw.Connection) -> None:
        """Clear the pages' unused middles, where SQLite leaves rows that it has moved.

        Raises:
            Unavailable: a reader keeps pages in the WAL.
        """
        connection.set_busy_timeout(BUSY_MS)
        path, size = str(self._path), int(connection.pragma("page_size"))
        with open_pages(path, size) as pages, self._connection() as beside:
            left: list[int] = []
            for first in pages.pieces():
                began = monotonic()
                left += pages.left_in(first)
                _rest_after(began, READ_REST)
                if len(left) >= CLEARED:
                    _clear(pages, left, connection, beside)
                    left.clear()
            # At least once: a process that was killed may not have synced what it cleared.
            _clear(pages, left, connection, beside)

    def close(self) -> None:
        """Do nothing: each call opens a connection of its own, and closes it."""

    @contextmanager
    def _connection(self) -> Iterator[apsw.Connection]:
        with map_errors(self._path), closing(connect_to_erase(self._path, self.id)) as connection:
            connection.set_busy_timeout(BUSY_MS)
            connection.wal_autocheckpoint(WAL_PAGES)
            yield connection


def _let_others_sync(connection: apsw.Connection) -> None:
    """Leave the syncs to the writer's commits and to the checkpoint: a deletion is repeatable."""
    connection.pragma("synchronous", "normal")


def _rest_after(began: float, times: float = REST) -> float:
    """Rest after a step that began at a time; return the seconds that it took."""
    took = monotonic() - began
    time.sleep(min(times * took, MOST_REST))
    return took


def _clear(
    pages: Pages, numbers: Sequence[int], connection: apsw.Connection, beside: apsw.Connection
) -> None:
    for _ in range(ATTEMPTS):
        began = monotonic()
        is_done = clear_beside_writers(pages, numbers, connection, beside)
        _rest_after(began)
        if is_done:
            return
        time.sleep(AGAIN)
    raise Unavailable(IS_READ)


def _truncate_wal(connection: apsw.Connection) -> None:
    """Move all of the WAL to the database, and make it empty.

    Raises:
        Unavailable: a reader needs it, as a backup may for minutes.
    """
    connection.set_busy_timeout(TRUNCATE_MS)
    for _ in range(ATTEMPTS):
        with suppress(apsw.BusyError):
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            return
        time.sleep(AGAIN)
    raise Unavailable(IS_READ)
