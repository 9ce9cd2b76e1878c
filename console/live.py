"""Live parts of pages: one source for all who look at the same, over server-sent events."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Self

from console.page import LivePage, Outdated, Piece
from console.query import Query
from desk.client import ClientError, Retryable

WAITING = 50
"""Events that wait for one browser; with more, it has to load the page again."""

RECENT = 10
"""Events that are kept for browsers that come, or come again."""

KEEP_ALIVE = 5.0
"""Seconds without an event after which a browser gets one that says if the service is there."""

AWAY_AFTER = 12.0
"""Seconds without a message of the service, which sends one about every 5 s."""

RETRY = 2.0
"""Seconds until a service that did not answer is asked again."""

MAX_LISTENERS = 1_000
"""Browsers at once."""

MAX_CHANNELS = 50
"""Different queries of these browsers. Each is a stream of the service."""

log = logging.getLogger(__name__)


class TooManyListeners(Exception):
    """A limit is reached. The message is a sentence for people."""


@dataclass(eq=False)
class _Channel:
    """A source under way, and its listeners.

    Attributes:
        last_message_at: the loop's time of the last message of the service.
        complete_after: all events after this revision are among the recent ones, or still to come.
        revision: of the last message.
        recent: the last events, each with its revision.
        queues: of the listeners. None ends a listener.
    """

    last_message_at: float
    complete_after: int | None
    revision: int = 0
    recent: deque[tuple[int, bytes]] = field(default_factory=deque)
    queues: set["asyncio.Queue[bytes | None]"] = field(default_factory=set)
    task: "asyncio.Task[None] | None" = None

    def put(self, event: bytes) -> None:
        """Give an event to all listeners; one that does not keep up gets its last one."""
        for queue in list(self.queues):
            if queue.qsize() < WAITING:
                queue.put_nowait(event)
            else:
                self.end(queue, _event("reload", "this page did not keep up"))

    def end(self, queue: "asyncio.Queue[bytes | None]", event: bytes) -> None:
        """Give a listener its last event."""
        self.queues.discard(queue)
        queue.put_nowait(event)
        queue.put_nowait(None)


class EventStream:
    """Events as bytes, which Falcon closes in any case."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._events)

    async def close(self) -> None:
        await self._events.aclose()


class Live:
    """The live part of a page."""

    def __init__(self, page: LivePage) -> None:
        self.page = page
        self._channels: dict[str, _Channel] = {}

    @property
    def channels(self) -> int:
        """Number of sources under way."""
        return len(self._channels)

    def listen(self, query: Query, after: int | None = None) -> EventStream:
        """Return the events for a query.

        Args:
            query: one that the page has checked.
            after: revision that the browser has reached; None: begin with what comes.

        Raises:
            TooManyListeners: wait until others have left.
        """
        if sum(len(channel.queues) for channel in self._channels.values()) >= MAX_LISTENERS:
            raise TooManyListeners(f"{MAX_LISTENERS} pages are live already")
        if query.encoded() not in self._channels and len(self._channels) >= MAX_CHANNELS:
            raise TooManyListeners(f"pages with {MAX_CHANNELS} different queries are live already")
        return EventStream(self._listen(query, after))

    def close(self) -> None:
        """End all listeners."""
        for channel in self._channels.values():
            for queue in channel.queues:
                queue.put_nowait(None)

    async def _listen(self, query: Query, after: int | None) -> AsyncGenerator[bytes, None]:
        key = query.encoded()
        channel = self._channels.get(key) or self._open(key, query, after)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        channel.queues.add(queue)
        self._catch_up(channel, queue, after)
        try:
            while event := await _next(channel, queue):
                yield event
        finally:
            channel.queues.discard(queue)
            if not channel.queues:
                self._close(key, channel)

    def _open(self, key: str, query: Query, after: int | None) -> _Channel:
        now = asyncio.get_running_loop().time()
        channel = self._channels[key] = _Channel(last_message_at=now, complete_after=after)
        channel.task = asyncio.create_task(self._run(key, query, channel, after))
        return channel

    def _close(self, key: str, channel: _Channel) -> None:
        self._remove(key, channel)
        if channel.task:
            channel.task.cancel()

    def _remove(self, key: str, channel: _Channel) -> None:
        if self._channels.get(key) is channel:
            del self._channels[key]

    def _catch_up(
        self, channel: _Channel, queue: "asyncio.Queue[bytes | None]", after: int | None
    ) -> None:
        """Give a new listener the recent events that it has not seen."""
        if self.page.event == "prepend":
            if after is None:
                return
            if channel.complete_after is None or after < channel.complete_after:
                channel.end(queue, _event("reload", "events between are missing"))
                return
        for revision, event in channel.recent:
            if self.page.event == "replace" or after is None or revision > after:
                queue.put_nowait(event)

    async def _run(self, key: str, query: Query, channel: _Channel, after: int | None) -> None:
        try:
            await self._follow(query, channel, after)
            last = _event("reload", "the source has ended")
        except Outdated as reason:
            last = _event("reload", str(reason))
        except ClientError as error:
            last = _event("problem", error.detail)
        except Exception:
            log.exception("a live part failed")
            last = _event("problem", "the console failed")
        self._remove(key, channel)
        for queue in list(channel.queues):
            channel.end(queue, last)

    async def _follow(self, query: Query, channel: _Channel, after: int | None) -> None:
        """Send pieces to the end of the source. A service that does not answer is asked again."""
        while True:
            try:
                async with aclosing(self.page.live(query, channel.revision or after)) as pieces:
                    async for piece in pieces:
                        self._take(channel, piece)
            except Retryable:
                await asyncio.sleep(RETRY)
            else:
                return

    def _take(self, channel: _Channel, piece: Piece) -> None:
        """Send a piece to all listeners."""
        channel.last_message_at = asyncio.get_running_loop().time()
        channel.revision = piece.revision
        if not piece.html:
            return
        event = _event(self.page.event, piece.html, piece.revision)
        if self.page.event == "replace":
            channel.recent.clear()
        elif len(channel.recent) == RECENT:
            channel.complete_after, _ = channel.recent.popleft()
        channel.recent.append((piece.revision, event))
        channel.put(event)


async def _next(channel: _Channel, queue: "asyncio.Queue[bytes | None]") -> bytes | None:
    """Return the next event, or after a while whether the service is there; None at the end."""
    try:
        async with asyncio.timeout(KEEP_ALIVE):
            return await queue.get()
    except TimeoutError:
        silence = asyncio.get_running_loop().time() - channel.last_message_at
        name = "live" if silence < AWAY_AFTER else "away"
        return _event(name, "", channel.revision)


def _event(name: str, data: str, revision: int = 0) -> bytes:
    """Return an event as it is sent. Its id is the revision to go on after, if that is known."""
    place = f"id: {revision}\n" if revision else ""
    return f"event: {name}\n{place}data: {json.dumps(data)}\n\n".encode()
