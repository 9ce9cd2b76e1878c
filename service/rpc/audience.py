"""The live streams that have one filter: what they have been spared, and who is asleep.

A filter is asked about each new record once, however many streams share it; a stream that nothing
new concerns stays asleep.
"""

import asyncio
from collections.abc import Sequence

from service.view.selection import EventSelection, LiveRow


class Sleeper:
    """What one stream sleeps on: news, the time of its checkpoint, or the drain."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def sleep(self, until: float) -> None:
        """Return when woken or about `until` (the loop's clock); perhaps for no reason."""
        if self._timer is None:
            # Not armed anew for every sleep: thousands of streams wake far more often than this.
            self._timer = self._loop.call_at(until, self._ring)
        self._future = self._loop.create_future()
        try:
            await self._future
        finally:
            self._future = None

    def wake(self) -> None:
        """End the sleep, if any."""
        if self._future and not self._future.done():
            self._future.set_result(None)

    def close(self) -> None:
        """Let go of the timer."""
        if self._timer:
            self._timer.cancel()

    def _ring(self) -> None:
        self._timer = None
        self.wake()


class News:
    """New rows of the feed, in order; also by session."""

    def __init__(self, rows: Sequence[LiveRow]) -> None:
        self.rows = rows
        self.by_session: dict[str, list[LiveRow]] = {}
        for row in rows:
            self.by_session.setdefault(row.session_id, []).append(row)


class Audience:
    """The streams of one filter.

    Attributes:
        selects: whether a row passes the filter.
        heard: nothing between this position and the one that the feed has told of passed.
        members: streams.
        sleepers: those of them that are live.
    """

    def __init__(self, selection: EventSelection, told: int) -> None:
        self.selects = selection.predicate()
        self._sessions = selection.session_ids
        self.heard = told
        self.members = 0
        self.sleepers: set[Sleeper] = set()

    def latest(self, news: "News") -> int:
        """The position of the last row that passes; 0 if none does.

        A filter that names sessions looks at their rows only: a stream for each session is common.
        """
        if not self._sessions:
            return self._latest(news.rows)
        return max(self._latest(news.by_session.get(name, ())) for name in self._sessions)

    def _latest(self, rows: Sequence[LiveRow]) -> int:
        return next((row.position for row in reversed(rows) if self.selects(row)), 0)

    def hear(self, position: int) -> None:
        """Take note of news at a position and wake everybody; 0 = none."""
        if position > self.heard:
            self.heard = position
            self.wake()

    def wake(self) -> None:
        """Have everybody look."""
        for sleeper in self.sleepers:
            sleeper.wake()
