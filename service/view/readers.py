"""Keeps blocking reads off the event loop: a few threads, each with a connection of its own."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from service.view.reader import Reader

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Reads that run at once; SQLite lets go of the interpreter's lock while it looks for rows."""


class Readers:
    """The connections of one process to one view.

    Attributes:
        path: the view's file.
        inline: for point reads that take less time than a change of threads (~100 µs).
    """

    def __init__(self, path: Path) -> None:
        self.inline = Reader(path)
        self.path = path
        self._local = threading.local()
        self._opened: list[Reader] = []
        self._threads = ThreadPoolExecutor(THREADS, "view", initializer=self._open)

    async def run(
        self, read: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `read(reader, …)` in a thread."""
        return await self.start(read, *args, **kwargs)

    def start(
        self, read: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """The same, to be awaited later; cancel what is not wanted any more."""

        def call() -> T:
            return read(self._local.reader, *args, **kwargs)

        started = asyncio.get_running_loop().run_in_executor(self._threads, call)
        started.add_done_callback(_seen)
        return started

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        self._threads.shutdown(cancel_futures=True)
        for reader in (self.inline, *self._opened):
            reader.close()

    def _open(self) -> None:
        self._local.reader = Reader(self.path)
        self._opened.append(self._local.reader)


def _seen(read: "asyncio.Future[T]") -> None:
    """Whoever awaits a read gets its error; asyncio need not complain when nobody does."""
    if not read.cancelled():
        read.exception()
