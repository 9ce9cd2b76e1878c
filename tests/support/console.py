"""The console on an ephemeral port, in the loop of the test, in front of a service."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from command.address import Address
from command.sockets import bound_address, listen
from console.protection import Access
from console.server import serve
from desk.client import Client
from journal.entry import NewEntry
from tests.support.processes import RunningDesk, start
from tests.support.rpc import Worker, World, service
from tests.support.waiting import PATIENCE, eventually


@contextmanager
def console_process(
    target: str, folder: Path, port: int = 0, **settings: str
) -> Iterator[tuple[RunningDesk, str]]:
    """Run `desk console` in front of a service; also its address, once it answers.

    Without a target the settings say where the service is.
    """
    named = ("--target", target) if target else ()
    arguments = ("console", *named, "--listen", f"127.0.0.1:{port}")
    with start(*arguments, data_dir=folder / "none", **settings) as running:
        eventually(lambda: running.stdout)
        yield running, running.stdout[0].removeprefix("console: http://")


@dataclass(frozen=True)
class Answer:
    """An answer of the console."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def document(self) -> Any:
        return json.loads(self.text)


class Console:
    """A console that runs.

    Attributes:
        address: host and port.
        url: of its root.
        session: for requests of the test's own.
        stop: ends it when set.
        serving: its task.
    """

    def __init__(
        self,
        address: Address,
        session: aiohttp.ClientSession,
        stop: asyncio.Event,
        serving: asyncio.Task[None],
    ) -> None:
        self.address = address
        self.url = f"http://{address}"
        self.session = session
        self.stop = stop
        self.serving = serving

    async def get(self, path: str, *, method: str = "GET", **options: Any) -> Answer:
        options = {"allow_redirects": False, **options}
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, **options) as answer:
            return Answer(answer.status, dict(answer.headers), await answer.text())

    @asynccontextmanager
    async def events(self, path: str) -> AsyncIterator["Events"]:
        """Listen to server-sent events until the block is left."""
        async with self.session.get(self.url + path) as answer:
            assert answer.status == 200, await answer.text()
            yield Events(answer)


class Events:
    """Server-sent events as they come."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._lines = answer.content

    async def next(self, *, until: str = "") -> tuple[str, str]:
        """Wait for an event, by default for any but a sign of life; return its name and text."""
        name = ""
        async with asyncio.timeout(PATIENCE):
            while line := (await self._lines.readuntil(b"\n")).decode():
                if line.startswith("event:"):
                    name = line.partition(":")[2].strip()
                elif line.startswith("data:") and (name == until or (not until and name != "live")):
                    return name, json.loads(line.partition(":")[2])
        raise AssertionError("the events ended")


@asynccontextmanager
async def console(
    target: str, access: Access | None = None, **client: Any
) -> AsyncIterator[Console]:
    """Run a console of a service; `client` are arguments of the console's `Client`."""
    stop, ready = asyncio.Event(), asyncio.Event()
    with closing(listen(Address("127.0.0.1", 0))) as listener:
        serving = asyncio.create_task(
            serve(
                listener,
                target,
                connect=lambda each: Client(each, **client),
                access=access or Access(),
                stop=stop,
                on_ready=ready.set,
            )
        )
        try:
            await asyncio.wait_for(ready.wait(), PATIENCE)
            connections = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connections, read_bufsize=2**20) as session:
                yield Console(bound_address(listener), session, stop, serving)
        finally:
            stop.set()
            await asyncio.wait_for(serving, PATIENCE)


@asynccontextmanager
async def shown(
    *bodies: bytes | NewEntry, access: Access | None = None
) -> AsyncIterator[tuple[Console, World, Worker]]:
    """A console of a service that has these callbacks."""
    async with (
        service(*bodies) as (world, worker),
        console(f"127.0.0.1:{worker.port}", access) as made,
    ):
        yield made, world, worker
