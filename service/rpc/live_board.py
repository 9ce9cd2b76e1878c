"""The board of this worker, shared by all calls.

Works only while it is asked for. A thread reads the view's changes since the last time, and makes
the boards.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import tzinfo
from time import monotonic, time
from typing import NamedTuple

from desk.v1.board_service_pb2 import GetBoardResponse
from service.board import MAX_SILENCE, BoardSelection, Day, LiveSums
from service.history import saved_session
from service.intervals import day_of
from service.positions import last_of
from service.rpc import responses
from service.rpc.errors import CallRefused, ErrorReason
from service.tally import Thresholds
from service.view.bounds import Row
from service.view.progress import Progress
from service.view.reader import Reader
from service.view.readers import Pool

MAX_CHANGES = 20_000
"""Revisions up to which changes are read one by one. Beyond it all sessions are read again, unless
the board has more sessions than that."""

CACHED = 64
"""Boards kept for other calls that ask for the same."""


class Centre(NamedTuple):
    """The contact centre's settings.

    Attributes:
        zone: its time zone.
        zone_name: the name of the zone, such as Asia/Shanghai.
        thresholds: by default; a call may have others.
        now: returns the Unix time in ms.
    """

    zone: tzinfo
    zone_name: str = "UTC"
    thresholds: Thresholds = Thresholds()
    now: Callable[[], int] = lambda: int(time() * 1000)


class Shown(NamedTuple):
    """A board as it is sent.

    Attributes:
        board: the desk.v1.Board, serialised.
        response: the answer with its header, likewise.
    """

    board: bytes
    response: bytes


class ViewSums:
    """The sums of all sessions that are open, or were offered today, as of a revision of the view.

    Args:
        centre: the contact centre's settings.
        most_sessions: limit of the sessions.
    """

    def __init__(self, centre: Centre, most_sessions: int) -> None:
        self._centre = centre
        self._most = most_sessions
        self._current: tuple[LiveSums, Progress] | None = None

    def refresh(self, reader: Reader) -> None:
        """Bring the sums up to date.

        Raises:
            CallRefused: TOO_MANY_SESSIONS.
        """
        self._current = self._refreshed(reader)

    def _refreshed(self, reader: Reader) -> tuple[LiveSums, Progress]:
        day = Day(*day_of(self._centre.now(), self._centre.zone))
        before, self._current = self._current, None  # after an error the sums are of no revision
        with reader.snapshot() as progress:
            if before and before[0].day == day and _are_few_changes(before, progress):
                sums, after = before[0], last_of(before[1].applied_revision)
                rows = reader.changed_sessions(after)
            else:
                sums = LiveSums(day)
                rows = reader.board_sessions(day.start, day.start - MAX_SILENCE)
            with closing(rows):
                self._put(sums, rows)
        return sums, progress

    def _put(self, sums: LiveSums, rows: Iterable[Row]) -> None:
        for app, session_id, fold in rows:
            sums.put((app, session_id), saved_session(fold) if fold else None)
            if len(sums) > self._most:
                raise CallRefused(
                    ErrorReason.TOO_MANY_SESSIONS,
                    f"more than {self._most:,} sessions are open or were offered today",
                )

    def show(self, reader: Reader, selection: BoardSelection) -> Shown:
        """Make a board of the sums as they are."""
        if self._current is None:  # the last refresh has failed
            self._current = self._refreshed(reader)
        sums, progress = self._current
        board = sums.board(selection, self._centre.zone_name).SerializeToString()
        header = responses.header_of(progress)
        return Shown(board, responses.answer(header, [board], GetBoardResponse()))


def _are_few_changes(before: tuple[LiveSums, Progress], now: Progress) -> bool:
    """Return True if reading each change costs less than reading all sessions."""
    sums, then = before
    return now.applied_revision - then.applied_revision < max(MAX_CHANGES, len(sums))


class LiveBoard:
    """Boards of sums that all calls share. One thread makes them, and callers take turns."""

    def __init__(self, pool: Pool, sums: ViewSums) -> None:
        self._pool = pool
        self._sums = sums
        self._refreshed_at = float("-inf")  # monotonic
        self._shown: dict[BoardSelection, Shown] = {}
        self._making: dict[tuple[BoardSelection, float], asyncio.Future[Shown]] = {}

    async def show(self, caller: str, selection: BoardSelection, *, not_before: float) -> Shown:
        """Return a board that was brought up to date at a monotonic time, or later.

        Raises:
            CallRefused: TOO_MANY_SESSIONS.
        """
        if self._refreshed_at >= not_before and (shown := self._shown.get(selection)):
            return shown
        key = selection, not_before
        if key not in self._making:  # streams ask for the same at the same tick
            making = self._pool.start(caller, self._make, selection, not_before)
            making.add_done_callback(lambda _: self._making.pop(key))
            self._making[key] = making
        return await asyncio.shield(self._making[key])  # the others wait for it, too

    def _make(self, reader: Reader, selection: BoardSelection, not_before: float) -> Shown:
        if self._refreshed_at < not_before:
            # Taken before the read: a later change must not count as seen.
            now, self._shown = monotonic(), {}
            self._sums.refresh(reader)
            self._refreshed_at = now
        if len(self._shown) >= CACHED:
            self._shown = {}
        if selection not in self._shown:
            self._shown[selection] = self._sums.show(reader, selection)
        return self._shown[selection]
