"""Live parts of pages: one source for all who look at the same, over server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from falcon.asgi import SSEvent

from desk.client import ClientError

WAITING = 50
"""Events that wait for one browser; with more, it is told to load the page again."""

KEEP_ALIVE = 5.0
"""Seconds without an event after which a comment is sent: a browser that left is noticed then."""

MAX_LISTENERS = 1_000

Source = Callable[[str], AsyncGenerator[str, None]]
"""Yields the HTML of a live part, over and over, for a query."""


class TooManyListeners(Exception):
    """There are `MAX_LISTENERS` already."""


@dataclass(eq=False)
class _Channel:
    """A source under way and who listens to it."""

    queues: set["asyncio.Queue[SSEvent]"] = field(default_factory=set)
    last: SSEvent | None = None
    task: "asyncio.Task[None] | None" = None


class Live:
    """The live part of one kind of page.

    Args:
        source: makes what is sent.
        event: `replace` if each piece takes the place of the one before, `prepend` if it is added.
    """

    def __init__(self, source: Source, event: str) -> None:
        self._source = source
        self._event = event
        self._channels: dict[str, _Channel] = {}
        self._listeners = 0

    @property
    def channels(self) -> int:
        """Number of sources under way."""
        return len(self._channels)

    def listen(self, query: str) -> AsyncGenerator[SSEvent | None, None]:
        """Return the events for a query; None when there was none for a while.

        Raises:
            TooManyListeners: wait until others have left.
        """
        if self._listeners >= MAX_LISTENERS:
            raise TooManyListeners
        return self._listen(query)

    async def _listen(self, query: str) -> AsyncGenerator[SSEvent | None, None]:
        channel = self._channels.get(query) or self._open(query)
        queue: asyncio.Queue[SSEvent] = asyncio.Queue(WAITING)
        channel.queues.add(queue)
        self._listeners += 1
        try:
            if channel.last:
                yield channel.last
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE):
                        event = await queue.get()
                except TimeoutError:
                    yield None
                    continue
                yield event
                if event.event == "reload":
                    return
        finally:
            self._listeners -= 1
            channel.queues.discard(queue)
            if not channel.queues:
                self._close(query, channel)

    def _open(self, query: str) -> _Channel:
        channel = self._channels[query] = _Channel()
        channel.task = asyncio.create_task(self._run(query, channel))
        return channel

    def _close(self, query: str, channel: _Channel) -> None:
        if self._channels.get(query) is channel:
            del self._channels[query]
        if channel.task:
            channel.task.cancel()

    async def _run(self, query: str, channel: _Channel) -> None:
        try:
            async with aclosing(self._source(query)) as pieces:
                async for piece in pieces:
                    event = SSEvent(event=self._event, json=piece)
                    channel.last = event if self._event == "replace" else None
                    for queue in channel.queues:
                        _put(queue, event)
        except ClientError as error:
            for queue in channel.queues:
                _put(queue, SSEvent(event="problem", json=error.detail))
            if self._channels.get(query) is channel:
                del self._channels[query]


def _put(queue: "asyncio.Queue[SSEvent]", event: SSEvent) -> None:
    """Give an event to a browser; one that does not keep up is told to load the page again."""
    if queue.qsize() < WAITING - 1:
        queue.put_nowait(event)
    elif not queue.full():
        queue.put_nowait(SSEvent(event="reload", json="this page did not keep up"))
