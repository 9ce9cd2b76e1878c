"""Runs the console on uvicorn."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, tzinfo

import uvicorn

from console.app import create_app
from console.board import Board
from console.connections import CancelWhenGone, abort, abort_stuck
from console.events import Feed
from console.live import Live
from console.protection import HEADERS, Access
from console.sampling import sample
from console.site import Site
from console.table import Table
from desk.client import Client, targets_of

MAX_CONNECTIONS = 3_500
"""Connections at once; more are answered with 503. Live pages may have 3,000 of them."""

MAX_HEAD = 32 * 1024
"""Bytes of a request without its body."""

GRACE = 2.0
"""Seconds for answers to be finished at the end."""


async def serve(
    listener: socket.socket,
    target: str,
    *,
    connect: Callable[[str], Client],
    access: Access,
    zone: tzinfo = UTC,
    settings: Sequence[Mapping[str, str]] = (),
    settings_of: str = "",
    stop: asyncio.Event,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until `stop` is set.

    Args:
        listener: socket that listens.
        target: address of the service; several, with commas between them, are replicas.
        connect: makes a client of a target.
        access: decides who may see the console.
        zone: of the times shown.
        settings: name, value and source of each, to be shown; secrets are masked.
        settings_of: the command that has read them, and what it runs.
        stop: ends the serving.
        on_ready: called when requests are answered.
    """
    async with AsyncExitStack() as stack:
        clients: Mapping[str, Client] = {
            each: await stack.enter_async_context(connect(each)) for each in targets_of(target)
        }
        client = await stack.enter_async_context(connect(target))
        site = Site(client, replicas=clients, zone=zone, settings=settings, settings_of=settings_of)
        lives = [Live(page(site)) for page in (Board, Feed, Table)]
        server = _Server(_config(CancelWhenGone(create_app(site, access, lives))), on_ready)
        connections = server.server_state.connections
        for work in (sample(site), abort_stuck(connections)):
            stack.callback(asyncio.create_task(work).cancel)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        stack.callback(stopping.cancel)
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        for live in lives:
            live.close()
        ending = asyncio.get_running_loop().call_later(GRACE, abort, connections)
        await serving
        ending.cancel()


def _config(app: CancelWhenGone) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",  # also where a faster one is installed: its limits are known
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # below it there is a line for each wrong or refused request
        access_log=False,
        server_header=False,
        proxy_headers=False,
        headers=list(HEADERS.items()),
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=MAX_HEAD,
    )


class _Server(uvicorn.Server):
    """A server that says when it answers, and leaves signals to its caller."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()
