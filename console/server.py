"""Runs the console on uvicorn."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, tzinfo

import uvicorn

from console.app import create_app
from console.protection import Access
from console.site import Site
from desk.client import Client, targets_of

MAX_CONNECTIONS = 2_000
"""Connections at once; more are answered with 503."""


async def serve(
    listener: socket.socket,
    target: str,
    *,
    connect: Callable[[str], Client],
    access: Access,
    zone: tzinfo = UTC,
    settings: list[dict[str, str]] | None = None,
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
        settings: to be shown; None if they are not known.
        stop: ends the serving.
        on_ready: called when requests are answered.
    """
    async with AsyncExitStack() as stack:
        clients: Mapping[str, Client] = {
            each: await stack.enter_async_context(connect(each)) for each in targets_of(target)
        }
        client = await stack.enter_async_context(connect(target))
        site = Site(client, replicas=clients, zone=zone, settings=settings)
        sampling = asyncio.create_task(site.depth.run(client))
        stack.callback(sampling.cancel)
        config = uvicorn.Config(
            create_app(site, access),
            log_config=None,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=32 * 1024,
        )
        server = _Server(config, on_ready)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        stopping.cancel()


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
