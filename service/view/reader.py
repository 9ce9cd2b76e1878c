"""Reads the view: from one snapshot, in bounded work, blocking while it does.

One `Reader` is one connection, used by one thread at a time. Knows nothing of protobuf or gRPC.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import msgspec

from service.positions import MAX_REVISION, last_of, revision_of
from service.records import forgotten_sessions
from service.view import progress, queries
from service.view.bounds import Bounds, Row, cut, size_of, take_bytes, whole_revisions
from service.view.errors import ViewError, sqlite_errors
from service.view.progress import Progress
from service.view.selection import (
    EventSelection,
    LiveRow,
    SessionSelection,
    SnapshotSelection,
    one_of,
)
from service.view.store import open_reader

EVERYTHING = EventSelection()


class SessionAt(NamedTuple):
    """A session as of a revision, serialised; None if it had not begun."""

    journal_id: str
    revision: int
    session: bytes | None


class Window(NamedTuple):
    """All selected rows after a position up to and including `reached`."""

    progress: Progress
    rows: list[Row]
    reached: int


class Reader:
    """A connection to the view that cannot write. Every method raises `ViewError`s."""

    @sqlite_errors()
    def __init__(self, path: Path, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._db = open_reader(path)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def snapshot(self) -> Iterator[Progress]:
        """Hold one snapshot: everything that is read inside is of one revision."""
        with sqlite_errors():
            self._db.execute("BEGIN")
            try:
                yield self.progress()
            finally:
                self._db.execute("COMMIT")

    @contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Interrupt a read inside that takes too long.

        Raises:
            TimeLimitPassed: it was interrupted.
        """
        end = time.monotonic() + seconds
        self._db.set_progress_handler(lambda: time.monotonic() > end, 20_000)
        try:
            yield
        finally:
            self._db.set_progress_handler(None)

    def data_version(self) -> int:
        """Return a number that changes with each commit."""
        version: int = self._one(queries.DATA_VERSION)[0]
        return version

    def progress(self) -> Progress:
        return Progress.of_row(self._first(progress.LOAD, ()))

    def now(self, sdk_app_id: int, session_id: str) -> SessionAt:
        """Read a session and the present revision, of one snapshot."""
        return SessionAt._make(self._one(queries.SESSION_NOW, (sdk_app_id, session_id)))

    def session(self, sdk_app_id: int, session_id: str) -> bytes | None:
        """Read a session as it is now, of the snapshot that is open."""
        return self._blob(queries.SESSION, (sdk_app_id, session_id))

    def session_as_of(self, sdk_app_id: int, session_id: str, revision: int) -> bytes | None:
        """Read a session as it was after a revision, as far as the feed is kept."""
        return self._blob(queries.SESSION_AS_OF, (session_id, sdk_app_id, last_of(revision)))

    def session_at_time(
        self, sdk_app_id: int, session_id: str, time: int
    ) -> tuple[int, bytes | None]:
        """Read a session as of its last callback received by a time (ms), and that revision.

        Callbacks beyond the limits of a session do not count. (0, None) if there is none.
        """
        return self._first(queries.SESSION_AT_TIME, (session_id, sdk_app_id, time)) or (0, None)

    def feed(
        self, selection: EventSelection, after: int, *, enough: int, with_session: bool = False
    ) -> Window:
        """Read the next part of the feed after a position, as much as `cut` takes.

        Looks at `bounds.revisions` at most; where sessions are named, at theirs only.
        """
        columns = queries.RECORD_AND_SESSION_COLUMNS if with_session else queries.RECORD_COLUMNS
        return self._feed(selection, after, columns, enough)

    def _feed(self, selection: EventSelection, after: int, columns: str, enough: int) -> Window:
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
        end = min(end, last_of(revision_of(after) + self.bounds.revisions))
        where = selection.where()
        sql = queries.FEED.format(columns=columns, where=where.sql)
        return self._db.execute(sql, (after, end, *where.values)), end

    def _of_sessions(
        self, selection: EventSelection, after: int, end: int, columns: str
    ) -> tuple[apsw.Cursor, int]:
        sessions = msgspec.json.encode(selection.session_ids).decode()
        values = (after, end, sessions, self.bounds.revisions)
        positions = self._all(queries.FEED_OF_SESSIONS, values)
        if len(positions) == self.bounds.revisions:
            positions, end = whole_revisions(positions, positions[-1][0])
        where = msgspec.structs.replace(selection, session_ids=()).where()
        sql = queries.FEED_AT.format(columns=columns, where=where.sql)
        return self._db.executemany(sql, ((at, *where.values) for (at,) in positions)), end

    def tail(self, after: int) -> Window:
        """Read the next part of the whole feed; the rows are `LiveRow`s."""
        window = self._feed(EVERYTHING, after, queries.LIVE_COLUMNS, self.bounds.size)
        return window._replace(rows=[LiveRow._make(row) for row in window.rows])

    def history(
        self, sdk_app_id: int, session_id: str, revision: int, *, revised: bool = False
    ) -> Iterator[Row]:
        """Read the callbacks of a session up to a revision, one by one, or their revised verdicts.

        Rows are (position, event_revision, record); the record of a callback has its event.
        """
        values = (session_id, sdk_app_id, revised, last_of(revision))
        with sqlite_errors():
            yield from self._db.execute(queries.HISTORY_OF_SESSION, values)

    def forgotten_at(self, sdk_app_id: int, session_id: str) -> int:
        """Return the revision at which a session was forgotten last; 0 if it never was."""
        return self._one(queries.FORGOTTEN_AT, (session_id, sdk_app_id))[0] or 0

    def last_forgotten(self) -> int:
        """Return the position of the newest FORGET entry; 0 if there is none."""
        return self._one(queries.LAST_FORGOTTEN)[0] or 0

    def last_received(self) -> int:
        """Return the time (ms) at which the newest callback was received; 0 if there is none."""
        row = self._first(queries.LAST_RECEIVED, ())
        return row[0] if row else 0

    def entries_to_delete(
        self, limit: int, *, before: int = MAX_REVISION, until: int = MAX_REVISION
    ) -> list[int]:
        """Return revisions of entries that the journal may still have, in order of deletion.

        Args:
            limit: of their number.
            before: entries older than this revision.
            until: those that FORGET entries up to this revision list.
        """
        values = before, until, limit
        return [revision for (revision,) in self._all(queries.ENTRIES_TO_DELETE, values)]

    def listed_until(self, until: int, enough: int) -> int:
        """Return the FORGET entry, up to one, with which `enough` entries to delete are listed.

        The last one if they are fewer; 0 if there is none.
        """
        return self._one(queries.LISTED_UNTIL, (until, enough))[0] or 0

    def left_to_delete(self, limit: int) -> tuple[int, int | None]:
        """Count the entries to delete, up to `limit`; return the time (ms) of the oldest order too.

        None if there is none.
        """
        return self._first(queries.LEFT_TO_DELETE, (limit,)) or (0, None)

    def records(self, positions: Iterable[int]) -> Iterator[Row]:
        """Read records that exist, one by one: (position, record)."""
        with sqlite_errors():
            rows = self._db.executemany(queries.RECORD_AT, ((each,) for each in positions))
            try:
                for row in rows:  # noqa: UP028 (that closes the cursor, and not by force)
                    yield row
            finally:
                rows.close(force=True)  # a caller that has enough leaves statements over

    def span(self, sdk_app_id: int, session_id: str) -> tuple[int, int] | None:
        """Read a session's first revision, and the position of its last callback."""
        return self._first(queries.SESSION_SPAN, (sdk_app_id, session_id))

    def not_begun(self, after: int, limit: int) -> list[Row]:
        """Read (app, session id, first revision) of sessions that have not begun.

        They are in the order of their first revisions, which are greater than `after`.
        """
        return self._all(queries.NOT_BEGUN, (after, limit))

    def is_named(self, first_revision: int, column: str, value: str) -> bool:
        """Return True if a callback of a session has `value` in one of the feed's columns."""
        sql = queries.IS_NAMED.format(column=column)
        return bool(self._one(sql, (first_revision, value))[0])

    def malformed_of(self, sdk_app_id: int, session_id: str) -> list[int]:
        """Read the revisions of the malformed callbacks that name a session."""
        rows = self._all(queries.MALFORMED_OF_SESSION, (sdk_app_id, session_id))
        return [revision for (revision,) in rows]

    def malformed(self, after: int, limit: int) -> Iterator[Row]:
        """Read malformed callbacks after a position, one by one: (position, record, app)."""
        with sqlite_errors():
            yield from self._db.execute(queries.WITHOUT_SESSION.format(where=""), (2, after, limit))

    @sqlite_errors()
    def forget_entries(
        self, selection: EventSelection, after: int, limit: int
    ) -> tuple[list[Row], int | None]:
        """Read the rows of FORGET entries after a position: (position, row, app).

        Returns them and the position after which the next page begins, None after the last page.
        """
        where = selection.where()
        sql = queries.WITHOUT_SESSION.format(where=where.sql)
        cursor = self._db.execute(sql, (3, after, *where.values, limit + 1))
        rows, cut_off = take_bytes(cursor, lambda row: len(row[1]), self.bounds.size)
        cursor.close(True)
        is_last = not cut_off and len(rows) <= limit
        return rows[:limit], None if is_last else rows[:limit][-1][0]

    def rejected_of(self, sdk_app_id: int, session_id: str, limit: int) -> int | None:
        """Count the callbacks of a session that has not begun, up to `limit`.

        None of them was accepted. Returns None if no callback has named the session.
        """
        row = self._first(queries.CALLBACKS_OF_SESSION, (sdk_app_id, session_id, limit))
        return row[1] if row else None

    @sqlite_errors()
    def rejections(
        self, selection: EventSelection, before: int, limit: int
    ) -> tuple[list[Row], int | None]:
        """Read rejections older than a position, newest first: (position, record).

        Returns them and the position before which the next page begins, None after the last page.
        """
        horizon = self._first(queries.REJECTIONS_HORIZON, (before, self.bounds.rows - 1))
        floor = horizon[0] if horizon else 0
        where = selection.where()
        sql = queries.REJECTIONS.format(where=where.sql)
        cursor = self._db.execute(sql, (before, floor - 1, *where.values, limit + 1))
        rows, cut_off = take_bytes(cursor, size_of, self.bounds.size)
        cursor.close(True)
        if cut_off or len(rows) > limit:
            return rows[:limit], rows[:limit][-1][0]
        return rows, floor or None

    @sqlite_errors()
    def snapshot_sessions(
        self, selection: SnapshotSelection, after: int, revision: int, enough: int
    ) -> tuple[list[tuple[int, bytes]], int]:
        """Read sessions that had begun by a revision and may be selected: (number, session).

        Looks at those whose number is greater than `after`, up to `enough` bytes. Returns them and
        the number up to which they are all there are.
        """
        horizon = self._first(queries.SNAPSHOT_HORIZON, (after, revision, self.bounds.rows - 1))
        end = horizon[0] if horizon else revision
        where = selection.where()
        sql = queries.SESSIONS_SNAPSHOT.format(where=where.sql)
        cursor = self._db.execute(sql, (after, end, *where.values, last_of(revision)))
        rows, cut_off = take_bytes(cursor, lambda row: len(row[1]), enough)
        cursor.close(True)
        return rows, rows[-1][0] if cut_off else end

    def count(
        self, selection: SessionSelection, by: str, limit: int, *, seconds: float
    ) -> list[Row]:
        """Count by one of `queries.COUNT_KEYS`; the largest groups first.

        Raises:
            TimeLimitPassed: it took more than so many seconds.
        """
        where = selection.where()
        sql = queries.COUNT.format(key=queries.COUNT_KEYS[by], where=where.sql)
        with self._limited(seconds):
            return self._all(sql, (*where.values, limit))

    def session_counts(self) -> list[Row]:
        """Read (app, state, number of sessions, start of the app's longest wait)."""
        return self._all(queries.SESSION_COUNTS, ())

    def event_counts(self, sdk_app_ids: tuple[int, ...]) -> list[Row]:
        """Read (type, state before, verdict, reason, number of callbacks) of some apps, or all."""
        where = one_of({"sdk_app_id": sdk_app_ids})
        return self._all(queries.EVENT_COUNTS.format(where=where.sql), where.values)

    def board_sessions(self, since: int, open_since: int) -> Generator[Row, None, None]:
        """Read (app, session id, fold) of what has an event since a time (ms).

        What is open may be older: its last event is of `open_since` or later.
        """
        with sqlite_errors():
            yield from self._db.execute(queries.BOARD_SESSIONS, (since, open_since))

    def changed_sessions(self, after: int) -> Generator[Row, None, None]:
        """Read, likewise, what has changed after a position; without a fold it is gone.

        What was forgotten comes first: it may have begun again.
        """
        for app, record in self.forgotten_after(after):
            for session_id in forgotten_sessions(record) - {""}:
                yield app, session_id, None
        with sqlite_errors():
            yield from self._db.execute(queries.CHANGED_SESSIONS, (after,))

    def forgotten_after(self, after: int) -> Iterator[Row]:
        """Read the FORGET entries after a position, one by one: (app, row)."""
        with sqlite_errors():
            yield from self._db.execute(queries.FORGOTTEN_AFTER, (after,))

    def report_sessions(
        self, sdk_app_ids: Iterable[int], start: int, end: int, *, seconds: float
    ) -> Generator[Row, None, None]:
        """Read the sessions of apps (none = all) between two times (ms). To be closed.

        Rows are (app, fold, last revision, first revision of a repeat contact, begun_at,
        last_event_at).

        Raises:
            TimeLimitPassed: it took more than so many seconds.
        """
        apps = one_of({"sdk_app_id": tuple(sdk_app_ids)})
        sql = queries.REPORT_SESSIONS.format(where=apps.sql)
        with sqlite_errors(), self._limited(seconds):
            yield from self._db.execute(sql, (start, end, *apps.values, *apps.values))

    def revised_after(self, after: int, *, seconds: float) -> Generator[Row, None, None]:
        """Read records revised after a position: (app, record, begun_at, last_event_at)."""
        with sqlite_errors(), self._limited(seconds):
            yield from self._db.execute(queries.REVISED_AFTER, (after,))

    def users_changed(self, after: int, *, seconds: float) -> list[int]:
        """Return apps in which a session that had begun may have another user since a position."""
        with self._limited(seconds):
            return [app for (app,) in self._all(queries.USERS_CHANGED, (after,))]

    def places(self, sql: str, values: tuple[int | str, ...], limit: int) -> list[tuple[int, int]]:
        """Read (order key, number) of sessions, by a statement of `service.view.index_pages`."""
        return self._all(sql, (*values, limit))

    def by_number(self, numbers: Iterable[int]) -> Iterator[tuple[bytes]]:
        """Read sessions by numbers that were read in the same snapshot, in their order."""
        with sqlite_errors():
            yield from self._db.executemany(queries.SESSION_BY_NUMBER, ((n,) for n in numbers))

    def _blob(self, sql: str, values: tuple[int | str, ...]) -> bytes | None:
        row = self._first(sql, values)
        return row[0] if row else None

    def _one(self, sql: str, values: tuple[int | str, ...] = ()) -> Row:
        row = self._first(sql, values)
        if row is None:
            raise ViewError("the view lacks a row that it must have")
        return row

    @sqlite_errors()
    def _first(self, sql: str, values: tuple[int | str, ...]) -> Row | None:
        row: Row | None = self._db.execute(sql, values).fetchone()
        return row

    @sqlite_errors()
    def _all(self, sql: str, values: tuple[int | str, ...]) -> list[Any]:
        return list(self._db.execute(sql, values))
