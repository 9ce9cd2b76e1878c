"""One Subscribe stream: from the view until it has caught up, then from the ring, and back.

A stream is nothing but a position. It queues nothing, so a client that stops reading costs the part
of the feed that is being sent, of `Feed.part_bytes`, and the next one only while few are sent any.
"""

import asyncio
import random

import msgspec
from desk.v1.status_pb2 import ResponseHeader

from service.positions import complete_revision
from service.rpc import frames
from service.rpc.batches import Encoded, encode
from service.rpc.calls import Call
from service.rpc.errors import Reason, Refused, shutting_down
from service.rpc.feed import Feed
from service.rpc.filter_groups import FilterGroup, Wakeup
from service.view.queries import RECORD_AND_SESSION_COLUMNS, RECORD_COLUMNS
from service.view.reader import Reader
from service.view.readers import Readers
from service.view.selection import EventSelection

CHECKPOINT = (4.0, 4.8)
"""Seconds of silence after which a stream is given a checkpoint; drawn for each stream."""

CHECKPOINTED = 2_500
"""Streams that get checkpoints that often; with more, each of them waits longer in proportion."""

MAX_AGE = (27 * 60.0, 33 * 60.0)
"""Seconds after which a stream is closed for the client to resume, so that load spreads again."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a subscriber."""

    selection: EventSelection
    max_batch: int
    with_session: bool


class Stream:
    """One subscriber.

    Attributes:
        caller: the address that it goes to.
        position: everything up to here has been sent, or did not pass the filter.
    """

    def __init__(
        self, feed: Feed, readers: Readers, group: FilterGroup, call: Call, *, wish: Wish
    ) -> None:
        self.position = 0
        self._feed = feed
        self._readers = readers
        self._group = group
        self.caller = call.caller
        self._write = call.write
        self._wish = wish
        self._live = False
        self._clock = asyncio.get_running_loop().time
        self._silence = random.uniform(*CHECKPOINT)  # noqa: S311
        self._end = self._clock() + random.uniform(*MAX_AGE)  # noqa: S311
        self._due = self._next_checkpoint()

    async def run(self, position: int) -> None:
        """Send everything after a position, then what comes, until the server closes the stream.

        Raises:
            Refused: SHUTTING_DOWN, after a last checkpoint; REVISION_NOT_KEPT.
        """
        self.position = position
        wakeup = Wakeup()
        self._group.wakeups.add(wakeup)
        try:
            while self._goes_on():
                await self._step(wakeup)
        finally:
            self._group.wakeups.discard(wakeup)
            wakeup.close()
        await self.send(self._feed.checkpoint(self.position))
        raise shutting_down()

    def header(self) -> ResponseHeader:
        """Make the header of a message at the present position."""
        return ResponseHeader(
            journal_id=self._feed.journal_id, revision=complete_revision(self.position)
        )

    @property
    def part_bytes(self) -> int:
        """Bytes to send in one go, about."""
        return self._feed.part_bytes(self.caller)

    async def send(self, message: bytes) -> None:
        """Write one message; returns when the client has room for it."""
        await self._write(message)
        self._due = self._next_checkpoint()

    def is_due(self) -> bool:
        """Return True if the next checkpoint is due."""
        return self._clock() >= self._due

    def _next_checkpoint(self) -> float:
        return self._clock() + self._silence * max(1.0, self._feed.subscribers / CHECKPOINTED)

    async def _step(self, wakeup: Wakeup) -> None:
        if self.position < self._group.last_match:
            self.position = self._group.skip(self.position)
            await self._deliver()
        else:
            self.position = max(self.position, self._feed.announced_position)
            await self._idle(wakeup)

    def _goes_on(self) -> bool:
        return not self._feed.draining and self._clock() < self._end

    async def _deliver(self) -> None:
        if self.position < self._feed.ring.floor:
            await self._fall_behind()
            await self._catch_up()
        else:
            encoded = self._feed.take(
                self._group,
                self.position,
                max_batch=self._wish.max_batch,
                with_session=self._wish.with_session,
                enough=self.part_bytes,
            )
            async with self._feed.sending(self.caller, encoded.size()):
                await self._send_all(encoded.messages)
            await self._move(encoded.reached)

    async def _catch_up(self) -> None:
        """Send from the view; the next part is read while the last message of one is being sent.

        Earlier, the two would only contend for the GIL. While many are being sent something, it is
        read after that.
        """
        encoded: Encoded | None
        part = self._start_reading(self.position)
        try:
            while part and self._goes_on():
                encoded = await part
                part, size = None, encoded.size()
                if not self._feed.has_room(self.caller, size):
                    encoded = None  # one large record: it is read again when there is room
                async with self._feed.sending(self.caller, size):
                    encoded = encoded or await self._reading(self.position)
                    await self._send_all(encoded.messages[:-1])
                    if self._feed.reads_ahead(self.caller):
                        part = self._start_reading(encoded.reached)
                    await self._send_all(encoded.messages[-1:])
                await self._move(encoded.reached)
                part = part or self._start_reading(encoded.reached)
        finally:
            if part:
                part.cancel()

    def _start_reading(self, position: int) -> "asyncio.Future[Encoded] | None":
        """Start to read what comes after a position, unless the ring has it."""
        if position >= self._feed.ring.floor:
            return None
        return self._reading(position)

    def _reading(self, position: int) -> "asyncio.Future[Encoded]":
        return self._readers.catch_ups.start(self.caller, self._read, position)

    async def _send_all(self, messages: list[bytes]) -> None:
        for message in messages:
            await self.send(message)

    async def _move(self, position: int) -> None:
        self.position = position
        await self._checkpoint_if_due()

    async def _fall_behind(self) -> None:
        if self._live:
            self._live = False
            await self.send(frames.fell_behind(self.header()))

    def _read(self, reader: Reader, position: int) -> Encoded:
        wish = self._wish
        columns = RECORD_AND_SESSION_COLUMNS if wish.with_session else RECORD_COLUMNS
        window = reader.feed(wish.selection, position, columns=columns, enough=self.part_bytes)
        if window.progress.journal_id != self._feed.journal_id:
            raise shutting_down()  # the view was replaced; the client is told by which journal
        check_kept(complete_revision(position), window.progress.oldest_revision)
        return encode(
            window.progress.journal_id,
            window.rows,
            window.reached,
            max_batch=wish.max_batch,
            with_session=wish.with_session,
        )

    async def _idle(self, wakeup: Wakeup) -> None:
        if not self._live:
            self._live = True
            await self.send(frames.caught_up(self.header()))
        elif not await self._checkpoint_if_due():
            # Nothing is awaited between the look at `last_match` and this: no row is slept through.
            await wakeup.sleep(self._due)

    async def _checkpoint_if_due(self) -> bool:
        if not self.is_due():
            return False
        await self.send(self._feed.checkpoint(self.position))
        return True


def check_kept(after: int, oldest: int) -> None:
    """Make sure that everything after a revision can still be read.

    Raises:
        Refused: REVISION_NOT_KEPT.
    """
    if after < oldest - 1:
        raise Refused(
            Reason.REVISION_NOT_KEPT,
            f"revisions before {oldest} are no longer kept",
            oldest_revision=oldest,
        )
