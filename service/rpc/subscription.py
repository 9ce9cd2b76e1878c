"""One Subscribe stream: from the view until it has caught up, then from the ring, and back.

A stream is a position. It queues nothing, so a client that stops reading costs the part of the feed
that is being sent, and the next one only while its caller has few unread bytes.
"""

import asyncio
import random
from time import time
from typing import Any

from google.protobuf.message import Message

from desk.v1.event_service_pb2 import CaughtUp, Checkpoint, FellBehind, SubscribeResponse
from desk.v1.status_pb2 import ResponseHeader
from metrics.definitions import FELL_BEHIND, STREAM_DELAY
from service.positions import complete_revision, last_of
from service.rpc import reads, responses
from service.rpc.calls import Call
from service.rpc.errors import shutting_down
from service.rpc.filter_groups import FilterGroup, Wakeup
from service.rpc.live_feed import LiveFeed
from service.rpc.requests import snapshot_selection
from service.rpc.responses import BatchFormat, Encoded
from service.rpc.revisions import check_kept
from service.rpc.subscribers import Place
from service.view.reader import Reader
from service.view.readers import Readers


class Stream:
    """A subscriber's stream. All records up to its position are sent, or do not pass its filter."""

    def __init__(
        self,
        feed: LiveFeed,
        readers: Readers,
        group: FilterGroup,
        call: Call,
        batch_format: BatchFormat,
    ) -> None:
        limits = feed.limits
        self.place = Place(call.grant.client, call.caller, group)
        self._position = 0
        self._sent = 0  # position in the last header
        self._caller = call.caller
        self._feed = feed
        self._bytes = feed.quotas.stream_bytes
        self._readers = readers
        self._group = group
        self._write = call.write
        self._format = batch_format
        self._live = False
        self._clock = asyncio.get_running_loop().time
        self._silence = random.uniform(*limits.checkpoint_seconds)  # noqa: S311
        self._begun = self._clock()
        self._end = self._begun + random.uniform(*limits.stream_seconds)  # noqa: S311
        self._due = self._next_checkpoint()

    async def run(self, position: int) -> None:
        """Send everything after a position, then new records, until the server closes the stream.

        Raises:
            CallRefused: SHUTTING_DOWN, after a last checkpoint; REVISION_NOT_KEPT.
        """
        self._position = self._sent = self.place.position = position
        wakeup = Wakeup()
        self._group.wakeups.add(wakeup)
        try:
            while self._is_open():
                await self._step(wakeup)
        finally:
            self._group.wakeups.discard(wakeup)
            wakeup.close()
        await self._send_mark(checkpoint=Checkpoint())
        raise shutting_down()

    async def send_sessions(self, revision: int) -> None:
        """Send the sessions that the filter selects as of a revision, before `run`."""
        self._position = self._sent = last_of(revision)
        reached, complete = 0, False
        while not complete and not self._feed.draining:
            part = await self._readers.catch_ups.run(
                self._caller, self._read_sessions, reached, revision
            )
            reached, complete = part.reached, part.reached >= revision
            if part.sessions or complete or self._is_due():
                message = responses.sessions(self._header(), part.sessions, complete=complete)
                async with self._bytes.sending(self._caller, len(message)):
                    await self._send(message)

    def _read_sessions(self, reader: Reader, after: int, revision: int) -> reads.Part:
        selection = snapshot_selection(self._group.selection)
        # The size is computed here and not before: the read may have waited for a thread.
        return reads.part(reader, selection, after, revision, self._bytes.part(self._caller))

    def _header(self) -> ResponseHeader:
        return responses.header(self._feed.journal_id, complete_revision(self._position))

    async def _send(self, message: Message | bytes) -> None:
        """Write one message; returns when the client has room for it."""
        await self._write(message)
        self._due = self._next_checkpoint()

    def _is_due(self) -> bool:
        """Return True if it is time for a sign of life, or something was forgotten since the last.

        A client that resumes from before that could be refused.
        """
        return self._clock() >= self._due or self._sent < self._feed.last_forgotten < self._position

    def _next_checkpoint(self) -> float:
        streams = self._feed.limits.checkpoint_streams
        return self._clock() + self._silence * max(1.0, self._feed.subscribers / streams)

    def _is_open(self) -> bool:
        return self._feed.ended < self._begun and self._clock() < self._end

    async def _step(self, wakeup: Wakeup) -> None:
        if self._position >= self._group.last_match:
            self._position = max(self._position, self._feed.announced_position)
            self.place.position = self._position
            await self._idle(wakeup)
            return
        self._position = self._group.skip(self._position)
        if self._position < self._feed.ring.floor:
            await self._fall_behind()
            await self._catch_up()
        else:
            await self._send_live()

    async def _idle(self, wakeup: Wakeup) -> None:
        if not self._live:
            self._live = True
            await self._send_mark(caught_up=CaughtUp())
        elif not await self._checkpoint_if_due():
            # Nothing is awaited between the look at `last_match` and this: no row is missed.
            await wakeup.sleep(self._due)

    async def _fall_behind(self) -> None:
        if self._live:
            self._live = False
            FELL_BEHIND.values[()] += 1
            await self._send_mark(fell_behind=FellBehind())

    async def _send_live(self) -> None:
        encoded = self._feed.messages(
            self._group, self._position, self._format, self._bytes.part(self._caller)
        )
        async with self._bytes.sending(self._caller, encoded.size()):
            await self._send_all(encoded.messages)
        if encoded.messages and self._feed.received_at:
            STREAM_DELAY.observe(max(0.0, time() - self._feed.received_at / 1000))
        await self._move(encoded)

    async def _catch_up(self) -> None:
        """Send from the view, part by part.

        The next part is read while the last message of one is sent; earlier, both would contend for
        the GIL. A caller with many unread bytes gets no read-ahead.
        """
        encoded: Encoded | None
        part = self._start_reading(self._position)
        try:
            while part and self._is_open():
                encoded = await part
                part, size = None, encoded.size()
                if not self._bytes.has_room(self._caller, size):
                    encoded = None  # one large record: it is read again when there is room
                async with self._bytes.sending(self._caller, size):
                    encoded = encoded or await self._reading(self._position)
                    await self._send_all(encoded.messages[:-1])
                    if self._bytes.allow_read_ahead(self._caller):
                        part = self._start_reading(encoded.reached)
                    await self._send_all(encoded.messages[-1:])
                await self._move(encoded)
                part = part or self._start_reading(encoded.reached)
        finally:
            if part:
                part.cancel()

    def _start_reading(self, position: int) -> "asyncio.Future[Encoded] | None":
        """Start to read after a position, unless the ring has these rows."""
        return self._reading(position) if position < self._feed.ring.floor else None

    def _reading(self, position: int) -> "asyncio.Future[Encoded]":
        return self._readers.catch_ups.start(self._caller, self._read, position)

    def _read(self, reader: Reader, position: int) -> Encoded:
        window = reader.feed(
            self._group.selection,
            position,
            with_session=self._format.with_session,
            enough=self._bytes.part(self._caller),
        )
        if window.progress.journal_id != self._feed.journal_id:
            raise shutting_down()  # the view was replaced, and the worker opens it again
        progress = window.progress
        check_kept(complete_revision(position), progress.begins_at, progress.journal_id)
        return responses.encode(progress.journal_id, window.rows, window.reached, self._format)

    async def _send_all(self, messages: list[bytes]) -> None:
        for message in messages:
            await self._send(message)

    async def _move(self, encoded: Encoded) -> None:
        self._position = self.place.position = encoded.reached
        if encoded.messages:
            self._sent = encoded.reached
        await self._checkpoint_if_due()

    async def _send_mark(self, **content: Any) -> None:
        """Send a message that has no records, with the revision to resume after."""
        self._sent = self._position
        await self._send(SubscribeResponse(header=self._header(), **content))

    async def _checkpoint_if_due(self) -> bool:
        if not self._is_due():
            return False
        await self._send_mark(checkpoint=Checkpoint())
        return True
