"""The live end of the feed, read from the view once for all streams and waiters of this worker.

Reads only while calls follow it. Recent rows are in a ring; a stream has no queue, only a position.
`Ring.floor` <= `announced_position` <= `Ring.head`, unless rows leave the ring early.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from operator import itemgetter
from time import perf_counter
from typing import cast

from service.positions import complete_revision, last_of, position_of
from service.records import forgotten_revisions, forgotten_sessions, is_forgotten, received_at
from service.rpc import responses
from service.rpc.commit_watch import CommitWatch
from service.rpc.errors import log_error, shutting_down
from service.rpc.filter_groups import FilterGroup, FilterIndex
from service.rpc.limits import Quotas
from service.rpc.responses import BatchFormat, Encoded
from service.rpc.subscribers import Places
from service.rpc.waiters import Waiters
from service.view.bounds import cut, size_of
from service.view.errors import ViewError
from service.view.reader import Reader
from service.view.selection import EventSelection, LiveRow

RETRY = 0.5
"""Seconds before the view is read again after an error."""

SLICE = 0.001
"""Seconds of small steps between two turns of the event loop."""

CACHED = 16
"""Encoded messages kept for streams with the same filter; each at most ~1 MiB."""


class ViewReplaced(Exception):
    """The view is not the one that was opened: everything must be opened again."""


class Ring:
    """A ring buffer of the last rows of the feed: those after `floor`, up to and including `head`.

    Args:
        head: position at which it begins, empty.
        rows: rows at most.
        size: bytes at most.
    """

    def __init__(self, head: int, *, rows: int, size: int) -> None:
        self._max_rows = rows
        self._max_bytes = size
        self.reset(head)

    def __len__(self) -> int:
        return len(self._rows)

    def reset(self, head: int) -> None:
        """Drop all rows and begin at a position."""
        self._rows: list[LiveRow] = []
        self.bytes = 0
        self.floor = self.head = head

    def extend(self, rows: Iterable[LiveRow], head: int) -> None:
        """Add the rows after `head`, which is then the `head` given."""
        for row in rows:
            self._rows.append(row)
            self.bytes += size_of(row)
        self.head = head
        self._trim()

    def forget(self, order: LiveRow) -> None:
        """Drop the rows that a FORGET entry lists: they are no longer in the view."""
        sessions = forgotten_sessions(order.record)
        positions = set(map(position_of, forgotten_revisions(order.record)))

        def is_kept(row: LiveRow) -> bool:
            if row.sdk_app_id != order.sdk_app_id or is_forgotten(row.record):
                return True
            if row.session_id:
                return row.session_id not in sessions
            return row.position not in positions

        self._rows = list(filter(is_kept, self._rows))
        self.bytes = sum(map(size_of, self._rows))

    def after(self, position: int) -> list[LiveRow]:
        """Return the rows after a position that is not below `floor`."""
        return self._rows[self._place(position) :]

    def received_after(self, position: int) -> int:
        """Return the time (ms) at which the entry of the next row was received; 0: none."""
        place = self._place(position)
        return _received_at(self._rows[place : place + 1])

    def _place(self, position: int) -> int:
        return bisect_right(self._rows, position, key=itemgetter(0))

    def _trim(self) -> None:
        drop = 0
        while self.bytes > self._max_bytes or len(self._rows) - drop > self._max_rows:
            self.bytes -= size_of(self._rows[drop])
            self.floor = self._rows[drop].position
            drop += 1
        del self._rows[:drop]


class LiveFeed:
    """The live part of this worker: the ring, the streams by filter, and the waiters.

    Attributes:
        journal_id: of the journal whose revisions the view has.
        quotas, limits: of the worker.
        draining: True once the server is shutting down.
        places: of the open streams.
        waiters: calls that wait for a revision or a state.
        received_at: time (ms) at which the gateway received the first callback that the last read
            has found.
        last_forgotten: position of the last row of a FORGET entry; every live stream sends a
            revision that is not older.
        announced_position: every stream has been woken for the rows up to here that it selects.
        ended: the loop's time at which all streams of that time were ended.
    """

    def __init__(self, reader: Reader, watch: CommitWatch, quotas: Quotas) -> None:
        progress = reader.progress()
        self.journal_id = progress.journal_id
        self.quotas = quotas
        self.limits = limits = quotas.limits
        self.draining = False
        self.waiters = Waiters()
        self.places = Places()
        head = last_of(progress.applied_revision)
        self.ring = Ring(head, rows=limits.ring_rows, size=limits.ring_bytes)
        self.announced_position = head
        self.last_forgotten = 0
        self.received_at = 0
        self.ended = 0.0
        self._reader = reader
        self._watch = watch
        self._filters = FilterIndex()
        self._extended = asyncio.Event()
        self._ended = asyncio.Event()
        self._followers = 0
        # Streams with one filter move in step: a message encoded for one is sent to the others too.
        self._encoded = lru_cache(CACHED)(self._encode)

    @property
    def subscribers(self) -> int:
        return len(self.quotas.streams)

    async def run(self) -> None:
        """Read new rows into the ring and wake waiters, until cancelled.

        Raises:
            ViewReplaced: the view is of another journal.
        """
        while True:
            await self._watch.committed.wait()
            self._watch.committed.clear()
            try:
                while await self._advance():  # noqa: ASYNC110 -- lets others have the loop
                    await asyncio.sleep(0)
            except ViewError as error:
                log_error("warning", "view_not_readable", "feed", error)
                self._watch.committed.set()
                await asyncio.sleep(RETRY)
            self._extended.set()

    async def announce(self) -> None:
        """Wake streams for the new rows in the ring, until cancelled."""
        clock = asyncio.get_running_loop().time
        each, most = self.limits.round_seconds
        while True:
            await self._extended.wait()
            self._extended.clear()
            next_round = clock() + min(most, each * self.subscribers)
            await self._announce()
            await asyncio.sleep(next_round - clock())

    def received_after(self, position: int) -> int:
        """Return the time (ms) at which the first callback in the ring after a position came."""
        return self.ring.received_after(position)

    @contextmanager
    def filter_group(self, selection: EventSelection) -> Iterator[FilterGroup]:
        """Give a stream its filter's group, as `following`."""
        with self.following():
            # A round of announcements may be past earlier rows; it is not past the ring's head.
            group = self._filters.join(selection, self.ring.head)
            try:
                yield group
            finally:
                self._filters.leave(group)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Keep the feed read while the block runs, from the applied revision or an earlier one.

        Raises:
            CallRefused: SHUTTING_DOWN.
        """
        if self.draining:
            raise shutting_down()
        if not self._followers:
            self.ring.reset(last_of(self._reader.progress().applied_revision))
            self.announced_position = self.ring.head
            self._watch.enable(True)
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            if not self._followers:
                self._watch.enable(False)

    def messages(
        self, group: FilterGroup, after: int, batch_format: BatchFormat, enough: int
    ) -> Encoded:
        """Return the messages for a group after a position that is not below the ring's floor."""
        return self._encoded(group, after, self.ring.head, batch_format, enough)

    def drain(self) -> None:
        """End all streams and waits, because the server is shutting down."""
        self.draining = True
        self.waiters.fail(shutting_down)
        self.end_streams()

    def end_streams(self) -> None:
        """End the streams that are open; their clients may come again, here or elsewhere."""
        self.ended = asyncio.get_running_loop().time()
        self._ended.set()
        self._ended = asyncio.Event()
        for group in self._filters:
            group.wake()

    async def sleep(self, seconds: float) -> None:
        """Sleep until the streams are ended, at most so many seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), max(0.0, seconds))

    async def _advance(self) -> bool:
        """Read the next rows and wake waiters; return True if there are more rows."""
        window = self._reader.tail(self.ring.head)
        if window.progress.journal_id != self.journal_id:
            raise ViewReplaced
        rows = cast(list[LiveRow], window.rows)
        revision = complete_revision(window.reached)
        if last_of(revision) == window.reached:
            for row in rows:
                if is_forgotten(row.record):
                    self._forget(row)
            self.ring.extend(rows, window.reached)
            self.received_at = _received_at(rows) or self.received_at
        else:
            # One revision is larger than a message: streams read it from the view.
            revision += 1
            self.ring.reset(last_of(revision))
        await _in_slices(self.waiters.announce(rows, revision))
        return revision < window.progress.applied_revision

    def _forget(self, order: LiveRow) -> None:
        self.last_forgotten = order.position
        self.ring.forget(order)
        self._encoded.cache_clear()

    async def _announce(self) -> None:
        """Wake the streams that select rows after `announced_position`."""
        announced, head = self.announced_position, self.ring.head
        if announced < self.ring.floor:
            # Rows left the ring before they were announced: every stream has to look.
            await _in_slices(self._filters.match_all(head, announced))
        else:
            await _in_slices(self._filters.announce(self.ring.after(announced), announced))
        self.announced_position = max(self.announced_position, head)

    def _encode(
        self, group: FilterGroup, after: int, head: int, batch_format: BatchFormat, enough: int
    ) -> Encoded:
        rows = filter(group.selects, self.ring.after(after))
        taken, reached = cut(rows, max(after, head), enough=enough)
        return responses.encode(self.journal_id, taken, reached, batch_format)


def _received_at(rows: Iterable[LiveRow]) -> int:
    """Return the time (ms) at which the entry of the first row was received; 0: there is none."""
    return next((received_at(row.record) for row in rows), 0)


async def _in_slices(steps: Iterable[None]) -> None:
    """Take small steps, and give the event loop a turn after each `SLICE`."""
    end = perf_counter() + SLICE
    for _ in steps:
        if perf_counter() >= end:
            await asyncio.sleep(0)
            end = perf_counter() + SLICE
