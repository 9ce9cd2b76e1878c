"""The live end of the feed, read from the view once for all streams and waiters of this worker.

Learns of commits only while somebody is interested. Holds the last rows in a ring bounded by count
and bytes; no stream has a queue of its own.
"""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import cast

from desk.v1.status_pb2 import ResponseHeader

from service.positions import complete_revision, last_of
from service.rpc import frames
from service.rpc.batches import Encoded, encode
from service.rpc.errors import shutting_down, throttled
from service.rpc.filter_groups import WAKE_WEIGHT, FilterGroup, FilterIndex
from service.rpc.limits import AllPlaces
from service.rpc.waiters import Waiters
from service.rpc.watch import Watch
from service.view.errors import ViewError
from service.view.reader import Reader, cut, size_of
from service.view.selection import EventSelection, LiveRow

RING_ROWS = 20_000
RING_BYTES = 16 * 1024 * 1024
"""Limits of the ring. A stream that is further behind reads from the view."""

RETRY = 0.5
"""Seconds to wait before reading again what could not be read."""

PACE_PER_SUBSCRIBER = 0.0001
MAX_PACE = 0.1
"""Seconds between two rounds of writes: at once for a few subscribers, joined for thousands."""

STEP = 3_000
"""Questions to filters, or their equal in wake-ups, after which others get the event loop."""

PART_BYTES = 512 * 1024
MIN_PART_BYTES = 16 * 1024
PART_OF_REST = 32
"""Bytes that a stream is sent in one go: this part of what its caller has left for the messages of
streams, between the other two. Beyond `PART_BYTES` the C library returns what is freed to the
system and asks for it again."""

CACHED = 16
"""Encoded messages kept for the streams that have the same filter; each at most ~1 MiB."""


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
    """The live part of this worker: the ring, the streams by filter, and the waiters.

    Attributes:
        journal_id: of the journal that all revisions count in.
        draining: True once the server is shutting down.
        waiters: calls that wait for a revision or a state.
        announced_position: all live streams that a row up to here concerns have been woken.
    """

    def __init__(self, reader: Reader, watch: Watch, places: AllPlaces) -> None:
        progress = reader.progress()
        self.journal_id = progress.journal_id
        self.ring = Ring(last_of(progress.applied_revision))
        self.announced_position = self.ring.head
        self.draining = False
        self.waiters = Waiters()
        self._reader = reader
        self._watch = watch
        self._streams = places.streams
        self._bytes = places.stream_bytes
        self._filters = FilterIndex()
        self._extended = asyncio.Event()
        self._interested = 0
        # Streams with one filter move in step: what one has been sent, the others are sent.
        self._encoded = lru_cache(CACHED)(self._encode)
        self._checkpoint = lru_cache(CACHED)(self._encode_checkpoint)

    @property
    def subscribers(self) -> int:
        """Open streams."""
        return len(self._streams)

    def part_bytes(self, caller: str) -> int:
        """Return the bytes that a stream of a caller is sent in one go, about."""
        part = self._bytes.left(caller) // PART_OF_REST
        # A power of two: streams with one filter share what is encoded for one of them.
        return max(MIN_PART_BYTES, min(PART_BYTES, 1 << part.bit_length() >> 1))

    def reads_ahead(self, caller: str) -> bool:
        """Return True if a stream may read the next part while it is sent one."""
        return self.part_bytes(caller) >= PART_BYTES

    def has_room(self, caller: str, size: int) -> bool:
        """Return True if a caller may be sent so many bytes now. Small messages always may."""
        return size <= 2 * MIN_PART_BYTES or size <= self._bytes.left_of_share(caller)

    @asynccontextmanager
    async def sending(self, caller: str, size: int) -> AsyncIterator[None]:
        """Count bytes to a caller as not read yet until the end of the block.

        Waits until there is room for them.
        """
        if self.has_room(caller, size):
            self._bytes.take_anyway(caller, size)
        else:
            await self._bytes.take_in_turn(caller, size)
        try:
            yield
        finally:
            self._bytes.give_back(caller, size)

    async def run(self) -> None:
        """Follow the view until cancelled.

        Raises:
            ViewReplaced: it is another journal's now.
        """
        while True:
            await self._watch.news.wait()
            self._watch.news.clear()
            try:
                while await self._advance():  # noqa: ASYNC110 -- lets others have the loop
                    await asyncio.sleep(0)
            except ViewError as error:
                throttled.log("warning", "view_not_readable", method="feed", error=error)
                self._watch.news.set()
                await asyncio.sleep(RETRY)
            self._extended.set()

    async def announce(self) -> None:
        """Wake streams for what comes into the ring, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._extended.wait()
            self._extended.clear()
            next_round = clock() + min(MAX_PACE, PACE_PER_SUBSCRIBER * self.subscribers)
            await self._announce()
            await asyncio.sleep(next_round - clock())

    @contextmanager
    def filter_group(self, selection: EventSelection) -> Iterator[FilterGroup]:
        """Take part in what is live, with one stream.

        Raises:
            Refused: SHUTTING_DOWN.
        """
        with self.interest():
            # In the midst of a round, earlier rows may have been passed: the ring's head is safe.
            group = self._filters.join(selection, self.ring.head)
            try:
                yield group
            finally:
                self._filters.leave(group)

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
        self, group: FilterGroup, after: int, *, max_batch: int, with_session: bool, enough: int
    ) -> Encoded:
        """The messages for a group after a position that is not below the ring's floor."""
        return self._encoded(group, after, self.ring.head, max_batch, with_session, enough)

    def checkpoint(self, position: int) -> bytes:
        """A Checkpoint at a position: the same for all streams that are live."""
        return self._checkpoint(complete_revision(position))

    def drain(self) -> None:
        """Tell all streams and waiters that the server is shutting down."""
        self.draining = True
        self.waiters.refuse(shutting_down)
        for group in self._filters:
            group.wake()

    def _start(self) -> None:
        self.ring.reset(last_of(self._reader.progress().applied_revision))
        self.announced_position = self.ring.head
        self._watch.want(True)

    async def _advance(self) -> bool:
        """Read the next rows and wake waiters; say whether there are more rows."""
        window = self._reader.tail(self.ring.head)
        if window.progress.journal_id != self.journal_id:
            raise ViewReplaced
        rows = cast(list[LiveRow], window.rows)
        revision = complete_revision(window.reached)
        if last_of(revision) == window.reached:
            self.ring.extend(rows, window.reached)
        else:
            # One revision that is larger than a message: it is read from the view alone.
            revision += 1
            self.ring.reset(last_of(revision))
        await _in_slices(self.waiters.announce(rows, revision))
        return revision < window.progress.applied_revision

    async def _announce(self) -> None:
        """Wake the streams that the rows after `announced_position` concern."""
        announced, head = self.announced_position, self.ring.head
        await _in_slices(self._steps(announced, head))
        self.announced_position = max(self.announced_position, head)

    def _steps(self, announced: int, head: int) -> Iterator[int]:
        if announced < self.ring.floor:
            # Rows were lost to the ring before they were announced: each stream has to look.
            for group in self._filters:
                yield WAKE_WEIGHT * group.match(head, announced)
        else:
            yield from self._filters.announce(self.ring.after(announced), announced)

    def _encode(
        self,
        group: FilterGroup,
        after: int,
        _head: int,
        max_batch: int,
        with_session: bool,
        enough: int,
    ) -> Encoded:
        rows = filter(group.selects, self.ring.after(after))
        taken, reached = cut(rows, max(after, self.ring.head), enough=enough)
        return encode(
            self.journal_id, taken, reached, max_batch=max_batch, with_session=with_session
        )

    def _encode_checkpoint(self, revision: int) -> bytes:
        return frames.checkpoint(ResponseHeader(journal_id=self.journal_id, revision=revision))


async def _in_slices(steps: Iterable[int]) -> None:
    """Take steps, of a cost each; let others have the event loop after each `STEP`."""
    spent = 0
    for cost in steps:
        spent += cost
        if spent >= STEP:
            spent = 0
            await asyncio.sleep(0)
