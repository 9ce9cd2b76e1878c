"""Keeps blocking reads off the event loop: a few threads, each with a connection of its own."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from service.view.reader import Reader

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 4
"""Reads that run at once; SQLite lets go of the interpreter's lock while it looks for rows."""


class _Thread(NamedTuple):
    """A thread with a connection of its own."""

    worker: ThreadPoolExecutor
    reader: Reader


class Readers:
    """The connections of one process to one view.

    Attributes:
        path: the view's file.
        inline: for point reads that take less time than a change of threads (~100 µs).
    """

    def __init__(self, path: Path) -> None:
        self.inline = Reader(path)
        self.path = path
        self._threads = [
            _Thread(ThreadPoolExecutor(1, f"view_{n}"), Reader(path)) for n in range(THREADS)
        ]
        self._idle = list(self._threads)
        self._turn = asyncio.Semaphore(THREADS)

    async def run(
        self, read: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call `read(reader, …)` in a thread."""
        await self._turn.acquire()
        # The one that was busy last: its caches, and the memory that it has freed, are warm.
        thread = self._idle.pop()
        release = partial(asyncio.get_running_loop().call_soon_threadsafe, self._release, thread)
        work = thread.worker.submit(read, thread.reader, *args, **kwargs)
        work.add_done_callback(lambda _: release())
        return await asyncio.wrap_future(work)

    def start(
        self, read: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> "asyncio.Future[T]":
        """The same, to be awaited later; cancel what is not wanted any more."""
        started = asyncio.ensure_future(self.run(read, *args, **kwargs))
        started.add_done_callback(_seen)
        return started

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        self.inline.close()
        for thread in self._threads:
            thread.worker.shutdown(cancel_futures=True)
            thread.reader.close()

    def _release(self, thread: _Thread) -> None:
        self._idle.append(thread)
        self._turn.release()


def _seen(read: "asyncio.Future[T]") -> None:
    """Whoever awaits a read gets its error; asyncio need not complain when nobody does."""
    if not read.cancelled():
        read.exception()
