"""Granian as the gateway needs it: bounded, and drained when it stops. An optional extra.

Owns the event loop and the listening socket. Handles no signals and knows no routes. What it
promises less than `gateway.server`: docs/adr/0009-granian-as-an-option.md.
"""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import monotonic
from typing import Any

import structlog
import uvloop
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import embed

from gateway import server
from gateway.app import App
from gateway.rsgi import Application

_log = structlog.get_logger(__name__)


class Server:
    """Serves the gateway until it is told to stop, and then finishes what it has begun.

    Args:
        app: the gateway; its environ has `gateway.app.CONDITION`.
        sock: a bound TCP socket. The server closes it.
    """

    def __init__(self, app: App, sock: socket.socket) -> None:
        self._loop = uvloop.new_event_loop()
        self._told = asyncio.Event()
        self._app = Application(app, self._loop)
        self._granian = _Granian(self._app, sock)

    def run(self) -> None:
        """Serve until `stop`, then drain: at most `server.DRAIN` seconds."""
        # In the main thread uvloop would take all signals for itself.
        with ThreadPoolExecutor(1, "gateway-loop") as thread:
            thread.submit(self._run).result()

    def stop(self) -> None:
        """Make `run` drain and return. Safe in any thread and in a signal handler."""
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._told.set)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        serving = asyncio.create_task(self._granian.serve())
        told = asyncio.create_task(self._told.wait())
        await asyncio.wait({serving, told}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            await serving
            raise RuntimeError("granian stopped by itself")
        await self._drain(serving)

    async def _drain(self, serving: asyncio.Task[None]) -> None:
        begun = monotonic()
        # Granian closes idle connections at once, and with them requests that are on their way. So
        # for a while all goes on, but that each answer ends its connection.
        self._app.draining = True
        await asyncio.wait({serving}, timeout=server.GRACE)
        self._granian.stop()  # type: ignore[no-untyped-call]
        await asyncio.wait({serving}, timeout=server.GRACE)
        self._app.stop_receiving()
        await asyncio.wait({serving}, timeout=max(0.1, begun + server.DRAIN - monotonic()))
        if not serving.done():
            _log.warning("drain_unfinished")


class _Granian(embed.Server):
    """Granian's server for an event loop that is there already, on a socket that is ours."""

    def __init__(self, app: Application, sock: socket.socket) -> None:
        super().__init__(
            app,
            interface=Interfaces.RSGI,
            http=HTTPModes.http1,
            websockets=False,
            backpressure=server.affordable_connections(),
            http1_settings=HTTP1Settings(
                header_read_timeout=server.IDLE * 1000, max_buffer_size=server.MAX_HEADERS
            ),
            log_level=LogLevels.error,
            # To the handlers that are there, and not to stdout.
            log_dictconfig={"loggers": {"_granian": {"handlers": [], "propagate": True}}},
        )
        self._sock = sock

    def _init_shared_socket(self) -> None:
        # The stubs are those of another platform, and the attribute is None at first.
        self._shd: Any = SocketHolder(self._sock.detach(), False, server.MAX_CONNECTIONS)  # type: ignore[call-arg]
