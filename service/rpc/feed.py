"""The live end of the feed, read from the view once for everybody on this worker who waits for it.

Learns of commits only while somebody is interested. Holds the last
rows in a ring bounded by count and bytes; nobody has a queue of their own.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import cast

import apsw
import structlog

from service.rpc.audience import Audience, News
from service.rpc.batches import Encoded, encode
from service.rpc.errors import Reason, Refused, shutting_down
from service.rpc.waiters import Waiters
from service.rpc.watch import Watch
from service.view.reader import Reader, complete_revision, cut, last_of, size_of
from service.view.selection import EventSelection, LiveRow

RING_ROWS = 20_000
RING_BYTES = 16 * 1024 * 1024
"""What the ring holds, at most. Who is further behind is served from the view."""

MAX_SUBSCRIBERS = 10_000
"""Open streams on one worker."""

RETRY = 0.5
"""Seconds to wait before reading again what could not be read."""

PACE_PER_SUBSCRIBER = 0.0001
MAX_PACE = 0.1
"""Seconds between two rounds of writes: at once for a few subscribers, joined for thousands."""

CACHED = 16
"""Encoded messages kept for the streams that have the same filter; each at most ~1 MiB."""

_log = structlog.get_logger()


class ViewReplaced(Exception):
    """The view is not the one that was opened: everything must be opened again."""


class Ring:
    """The last rows of the feed: all of them after `floor` up to and including `head`."""

    def __init__(self, head: int, *, rows: int = RING_ROWS, size: int = RING_BYTES) -> None:
        self.floor = self.head = head
        self.bytes = 0
        self._rows: list[LiveRow] = []
        self._positions: list[int] = []
        self._most_rows = rows
        self._most_bytes = size

    def __len__(self) -> int:
        return len(self._rows)

    def extend(self, rows: Iterable[LiveRow], head: int) -> None:
        """Take the rows after `head` as it was, up to and including `head` as it is now."""
        for row in rows:
            self._rows.append(row)
            self._positions.append(row.position)
            self.bytes += size_of(row)
        self.head = head
        self._trim()

    def reset(self, head: int) -> None:
        """Hold nothing but what comes after `head`."""
        self._rows.clear()
        self._positions.clear()
        self.bytes = 0
        self.floor = self.head = head

    def after(self, position: int) -> list[LiveRow]:
        """The rows after a position that is not below `floor`."""
        return self._rows[bisect_right(self._positions, position) :]

    def _trim(self) -> None:
        drop = 0
        while self.bytes > self._most_bytes or len(self._rows) - drop > self._most_rows:
            self.bytes -= size_of(self._rows[drop])
            self.floor = self._positions[drop]
            drop += 1
        del self._rows[:drop], self._positions[:drop]


class Feed:
    """What is live on this worker: the ring, the subscribers by filter, and the waiters.

    Attributes:
        journal_id: of the journal that all revisions count in.
        draining: True once the server is shutting down.
        subscribers: open streams.
        waiters: calls that wait for a revision or a state.
        told: the position up to which subscribers have been told of news.
    """

    def __init__(self, reader: Reader, watch: Watch) -> None:
        progress = reader.progress()
        self.journal_id = progress.journal_id
        self.ring = Ring(last_of(progress.applied_revision))
        self.told = self.ring.head
        self.draining = False
        self.subscribers = 0
        self.waiters = Waiters()
        self._reader = reader
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._audiences: dict[EventSelection, Audience] = {}
        self._next_round = 0.0
        self._round: asyncio.TimerHandle | None = None
        self._interested = 0
        # Streams with one filter move in step: what one has been sent, the others are sent.
        self._encoded = lru_cache(CACHED)(self._encode)

    async def run(self) -> None:
        """Follow the view until cancelled.

        Raises:
            ViewReplaced: it is another journal's now.
        """
        while True:
            await self._watch.news.wait()
            self._watch.news.clear()
            try:
                while self._advance():  # noqa: ASYNC110 -- not waiting: others may have the loop
                    await asyncio.sleep(0)
            except apsw.Error as error:
                _log.warning("view_not_readable", error=type(error).__name__)
                self._watch.news.set()
                await asyncio.sleep(RETRY)
            self._tell_in_time()

    @contextmanager
    def audience(self, selection: EventSelection) -> Iterator[Audience]:
        """Take part in what is live, with one stream.

        Raises:
            Refused: TOO_MANY_STREAMS, SHUTTING_DOWN.
        """
        if self.subscribers >= MAX_SUBSCRIBERS:
            raise Refused(Reason.TOO_MANY_STREAMS, f"{MAX_SUBSCRIBERS} streams are open already")
        with self.interest():
            self.subscribers += 1
            audience = self._audiences.setdefault(selection, Audience(selection, self.told))
            audience.members += 1
            try:
                yield audience
            finally:
                self.subscribers -= 1
                audience.members -= 1
                if not audience.members:
                    del self._audiences[selection]

    @contextmanager
    def interest(self) -> Iterator[None]:
        """Have the view followed; at the beginning, the ring's head is what is applied now or less.

        Raises:
            Refused: SHUTTING_DOWN.
        """
        if self.draining:
            raise shutting_down()
        if not self._interested:
            self._start()
        self._interested += 1
        try:
            yield
        finally:
            self._interested -= 1
            if not self._interested:
                self._watch.want(False)

    def take(
        self, audience: Audience, after: int, *, max_batch: int, with_session: bool
    ) -> Encoded:
        """The messages for an audience after a position that is not below the ring's floor."""
        return self._encoded(audience, after, self.ring.head, max_batch, with_session)

    def drain(self) -> None:
        """Let every stream and every waiter know that the server is shutting down."""
        self.draining = True
        self.waiters.refuse(shutting_down)
        for audience in self._audiences.values():
            audience.wake()

    def _start(self) -> None:
        self.ring.reset(last_of(self._reader.progress().applied_revision))
        self.told = self.ring.head
        self._watch.want(True)

    def _advance(self) -> bool:
        """Read the next rows; say whether there are more."""
        window = self._reader.tail(self.ring.head)
        if window.progress.journal_id != self.journal_id:
            raise ViewReplaced
        rows = cast(list[LiveRow], window.rows)
        self.waiters.see(rows)
        revision = complete_revision(window.reached)
        if last_of(revision) == window.reached:
            self.ring.extend(rows, window.reached)
        else:
            # One revision that is larger than a message: it is read from the view alone.
            revision += 1
            self.ring.reset(last_of(revision))
        self.waiters.reach(revision)
        return revision < window.progress.applied_revision

    def _tell_in_time(self) -> None:
        """Tell at once if the last round was long enough ago, or else as soon as it was."""
        if self._round is None and self.told < self.ring.head:
            self._round = self._loop.call_at(self._next_round, self._tell)

    def _tell(self) -> None:
        """Wake those for whom there is something between `told` and the ring's head."""
        self._round = None
        pace = min(MAX_PACE, PACE_PER_SUBSCRIBER * self.subscribers)
        self._next_round = self._loop.time() + pace
        told, self.told = self.told, self.ring.head
        lost = told < self.ring.floor
        news = News([] if lost else self.ring.after(told))
        for audience in self._audiences.values():
            audience.hear(self.ring.floor if lost else audience.latest(news))

    def _encode(
        self, audience: Audience, after: int, _head: int, max_batch: int, with_session: bool
    ) -> Encoded:
        rows = filter(audience.selects, self.ring.after(after))
        taken, reached = cut(rows, max(after, self.ring.head))
        return encode(
            self.journal_id, taken, reached, max_batch=max_batch, with_session=with_session
        )
