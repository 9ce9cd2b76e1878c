"""Reads the view: from one snapshot, in bounded work, blocking while it does.

One `Reader` is one connection, used by one thread at a time. Knows nothing of protobuf or gRPC.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from service.view import queries
from service.view.selection import (
    EventSelection,
    LiveRow,
    SessionSelection,
    SnapshotSelection,
    one_of,
)
from service.view.store import POSITION_BITS, open_reader

WINDOW_REVISIONS = 5_000
"""Revisions that one read of the feed looks at, at most."""

WINDOW_BYTES = 1024 * 1024
"""Bytes of records after which one read of the feed, or one page, stops."""

SCAN_ROWS = 10_000
"""Rows that one page looks at, at most."""

FRAMING = 16
"""Bytes that a record costs on the wire beyond its own, at most."""

EVERYTHING = EventSelection()

Row = tuple[Any, ...]
"""A row of the feed, which begins with position, record and perhaps session."""


class Progress(NamedTuple):
    """The row of the table `progress`; see schema.sql."""

    journal_id: str
    fingerprint: str
    applied_revision: int
    head_revision: int
    oldest_revision: int
    behind_since: int | None
    digest: bytes
    complete: int


class Now(NamedTuple):
    """A session as it is now, serialised, None if it has not begun; and the present revision."""

    journal_id: str
    revision: int
    session: bytes | None


class Window(NamedTuple):
    """All selected rows after a position up to and including `reached`."""

    progress: Progress
    rows: list[Row]
    reached: int


def first_of(revision: int) -> int:
    """Return the first position of a revision."""
    return revision << POSITION_BITS


def last_of(revision: int) -> int:
    """Return the last position that a revision could have."""
    return first_of(revision + 1) - 1


def complete_revision(position: int) -> int:
    """Return the last revision that is complete at a position, after which to resume."""
    return ((position + 1) >> POSITION_BITS) - 1


def cut(rows: Iterable[Row], until: int, *, enough: int) -> tuple[list[Row], int]:
    """Take rows up to `enough` bytes, at least one: whole revisions, unless one alone exceeds it.

    Returns the rows and the position up to which they are all there are; `until` if all are.
    """
    taken: list[Row] = []
    size = 0
    for row in rows:
        size += len(row[1]) + FRAMING
        if len(row) > 2 and row[2]:
            size += len(row[2])
        if size > enough and taken:
            return _whole(taken, row[0])
        taken.append(row)
    return taken, until


def size_of(row: Row) -> int:
    """Return the bytes of a record, and of its session if there is one."""
    size: int = len(row[1]) + FRAMING
    return size + len(row[2] or b"") if len(row) > 2 else size


def _whole(taken: list[Row], following: int) -> tuple[list[Row], int]:
    start = first_of(following >> POSITION_BITS)
    if taken[0][0] >= start:
        return taken, taken[-1][0]
    while taken[-1][0] >= start:
        taken.pop()
    return taken, start - 1


class Reader:
    """A connection to the view that cannot write.

    Raises, in every method:
        apsw.Error: the storage failed, or (InterruptError) a time limit passed.
    """

    def __init__(self, path: Path) -> None:
        self._db = open_reader(path)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def snapshot(self) -> Iterator[Progress]:
        """Make everything read inside be of one revision."""
        self._db.execute("BEGIN")
        try:
            yield self.progress()
        finally:
            self._db.execute("COMMIT")

    @contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Interrupt what runs inside when it takes too long."""
        end = time.monotonic() + seconds
        self._db.set_progress_handler(lambda: time.monotonic() > end, 20_000)
        try:
            yield
        finally:
            self._db.set_progress_handler(None)

    def data_version(self) -> int:
        """Return a number that changes with each commit."""
        return int(self._db.execute(queries.DATA_VERSION).get)

    def progress(self) -> Progress:
        """Read the progress."""
        return Progress._make(self._one(queries.PROGRESS))

    def now(self, sdk_app_id: int, session_id: str) -> Now:
        """Read a session and the present revision, of one snapshot."""
        return Now._make(self._one(queries.SESSION_NOW, (sdk_app_id, session_id)))

    def session(self, sdk_app_id: int, session_id: str) -> bytes | None:
        """Read a session as it is now, of the snapshot that is open."""
        return self._blob(queries.SESSION, (sdk_app_id, session_id))

    def session_as_of(self, sdk_app_id: int, session_id: str, revision: int) -> bytes | None:
        """Read a session as it was after a revision, as far as the feed is kept."""
        return self._blob(queries.SESSION_AS_OF, (session_id, sdk_app_id, last_of(revision)))

    def feed(
        self,
        selection: EventSelection,
        after: int,
        *,
        columns: str,
        enough: int,
    ) -> Window:
        """Read the next part of the feed after a position, as much as `cut` takes.

        Looks at `WINDOW_REVISIONS` at most; where sessions are named, at theirs only.
        """
        with self.snapshot() as progress:
            end = last_of(progress.applied_revision)
            find = self._of_sessions if selection.session_ids else self._in_order
            cursor, end = find(selection, after, end, columns)
            rows, reached = cut(cursor, end, enough=enough)
            cursor.close(True)
            return Window(progress, rows, max(reached, after))

    def _in_order(
        self, selection: EventSelection, after: int, end: int, columns: str
    ) -> tuple[apsw.Cursor, int]:
        end = min(end, last_of((after >> POSITION_BITS) + WINDOW_REVISIONS))
        where = selection.where()
        sql = queries.FEED.format(columns=columns, where=where.sql)
        return self._db.execute(sql, (after, end, *where.values)), end

    def _of_sessions(
        self, selection: EventSelection, after: int, end: int, columns: str
    ) -> tuple[apsw.Cursor, int]:
        sessions = one_of({"session_id": selection.session_ids})
        sql = queries.FEED_OF_SESSIONS.format(where=sessions.sql)
        values = (after, end, *sessions.values, WINDOW_REVISIONS)
        positions: list[Row] = self._db.execute(sql, values).fetchall()
        if len(positions) == WINDOW_REVISIONS:
            positions, end = _whole(positions, positions[-1][0])
        where = msgspec.structs.replace(selection, session_ids=()).where()
        sql = queries.FEED_AT.format(columns=columns, where=where.sql)
        return self._db.executemany(sql, ((at, *where.values) for (at,) in positions)), end

    def tail(self, after: int) -> Window:
        """Read the next part of the whole feed; the rows are `LiveRow`s."""
        window = self.feed(EVERYTHING, after, columns=queries.LIVE_COLUMNS, enough=WINDOW_BYTES)
        return window._replace(rows=[LiveRow._make(row) for row in window.rows])

    def facts(self, sdk_app_id: int, session_id: str, revision: int) -> list[Row]:
        """Read the callbacks of a session up to a revision: (position, event_revision, facts)."""
        values = (session_id, sdk_app_id, 0, last_of(revision))
        return list(self._db.execute(queries.FACTS_OF_SESSION, values))

    def revisions(self, sdk_app_id: int, session_id: str, revision: int) -> list[Row]:
        """Read where verdicts of a session were revised: (position, event_revision, None)."""
        values = (session_id, sdk_app_id, 1, last_of(revision))
        return list(self._db.execute(queries.FACTS_OF_SESSION, values))

    def records(self, positions: Iterable[int]) -> Iterator[Row]:
        """Read records that are there, one by one: (position, record)."""
        return self._db.executemany(queries.RECORD_AT, ((position,) for position in positions))

    def rejected_of(self, sdk_app_id: int, session_id: str, limit: int) -> int | None:
        """Count the callbacks of a session that has not begun, up to `limit`.

        None of them was accepted. Returns None if no callback has named the session.
        """
        row = self._first(queries.CALLBACKS_OF_SESSION, (sdk_app_id, session_id, limit))
        return row[1] if row else None

    def rejections(
        self, selection: EventSelection, before: int, limit: int
    ) -> tuple[list[Row], int | None]:
        """Read rejections older than a position, newest first: (position, record).

        Returns them and the position to go on before; None when these were the last.
        """
        horizon = self._first(queries.REJECTIONS_HORIZON, (before, SCAN_ROWS - 1))
        floor = horizon[0] if horizon else 0
        where = selection.where()
        sql = queries.REJECTIONS.format(where=where.sql)
        cursor = self._db.execute(sql, (before, floor - 1, *where.values, limit + 1))
        rows, cut_off = take_bytes(cursor, size_of)
        cursor.close(True)
        if cut_off or len(rows) > limit:
            return rows[:limit], rows[:limit][-1][0]
        return rows, floor or None

    def snapshot_sessions(
        self, selection: SnapshotSelection, after: int, revision: int, enough: int
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Read sessions that had begun by a revision and may be selected: (number, session).

        Looks at those whose number is greater than `after`, up to `enough` bytes. Returns them and
        the number up to which they are all there are.
        """
        horizon = self._first(queries.SNAPSHOT_HORIZON, (after, revision, SCAN_ROWS - 1))
        end = horizon[0] if horizon else revision
        where = selection.where()
        sql = queries.SESSIONS_SNAPSHOT.format(where=where.sql)
        cursor = self._db.execute(sql, (after, end, *where.values, last_of(revision)))
        rows, cut_off = take_bytes(cursor, lambda row: len(row[1]), enough)
        cursor.close(True)
        return rows, rows[-1][0] if cut_off else end

    def count(self, selection: SessionSelection, key: str, limit: int) -> list[Row]:
        """Count by a column or an expression; the largest groups first."""
        where = selection.where()
        sql = queries.COUNT.format(key=key, where=where.sql)
        return list(self._db.execute(sql, (*where.values, limit)))

    def walk(self, sql: str, values: tuple[int | str, ...], last: int) -> list[tuple[int, int]]:
        """Read (order key, number) along an index, by a statement of `service.view.walks`."""
        return list(self._db.execute(sql, (*values, last)))

    def by_number(self, numbers: Iterable[int]) -> Iterator[tuple[bytes]]:
        """Read sessions by numbers that were read in the same snapshot, in their order."""
        return self._db.executemany(queries.SESSION_BY_NUMBER, ((number,) for number in numbers))

    def plan(self, sql: str, values: Sequence[int | str]) -> list[str]:
        """Return SQLite's plan of a statement."""
        return [row[3] for row in self._db.execute(f"EXPLAIN QUERY PLAN {sql}", values)]

    def _blob(self, sql: str, values: tuple[int | str, ...]) -> bytes | None:
        row = self._first(sql, values)
        return row[0] if row else None

    def _one(self, sql: str, values: tuple[int | str, ...] = ()) -> Row:
        row = self._first(sql, values)
        if row is None:
            raise apsw.NotFoundError("the view lacks a row that it must have")
        return row

    def _first(self, sql: str, values: tuple[int | str, ...] = ()) -> Row | None:
        row: Row | None = self._db.execute(sql, values).fetchone()
        return row


def take_bytes(rows: Iterable[Row], size: Any, enough: int | None = None) -> tuple[list[Any], bool]:
    """Take rows up to `enough` bytes, at least one; say whether that was the reason to stop.

    By default, `WINDOW_BYTES` are enough.
    """
    most = WINDOW_BYTES if enough is None else enough
    taken: list[Row] = []
    total = 0
    for row in rows:
        total += size(row) + FRAMING
        if total > most and taken:
            return taken, True
        taken.append(row)
    return taken, False
