"""The connections of browsers: what is done about those that leave, or that do nothing."""

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any, Protocol

PATIENCE = 30.0
"""Seconds after which a connection is closed on which nothing has moved for as long."""


class CancelWhenGone:
    """An ASGI application that cancels its work on a request when the browser leaves.

    A call to the service ends with it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        begin = iter([await receive()])
        gone = asyncio.create_task(_until_gone(receive))

        async def replayed() -> Any:
            return next(begin, None) or await asyncio.shield(gone)

        answering = asyncio.create_task(self._app(scope, replayed, send))
        try:
            await asyncio.wait([answering, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering


async def _until_gone(receive: Any) -> Any:
    """Return the message that comes when the browser has left or has its answer."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


class Connection(Protocol):
    """A connection of uvicorn, as far as it is looked at here."""

    transport: Any
    cycle: Any


async def abort_stuck(connections: Collection[Any]) -> None:
    """Abort connections without a request or a reader, over and over."""
    before: dict[Any, Any] = {}
    while True:
        await asyncio.sleep(PATIENCE)
        present = {each: _progress(each) for each in connections if _waits(each)}
        abort([each for each, progress in present.items() if before.get(each) == progress])
        before = present


def abort(connections: Collection[Any]) -> None:
    """Close connections at once; what they have not sent is lost."""
    for each in list(connections):
        each.transport.abort()


def _waits(connection: Connection) -> bool:
    """Return True if the other end has to act: send a request, or read its answer."""
    cycle = connection.cycle
    streams = cycle and cycle.response_started and not cycle.response_complete
    return not streams or connection.transport.get_write_buffer_size() > 0


def _progress(connection: Connection) -> tuple[Any, int]:
    return connection.cycle, connection.transport.get_write_buffer_size()
