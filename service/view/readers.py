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

QUESTIONS = 3
"""Questions that are read at once; SQLite releases the GIL while it looks for rows."""

CATCH_UPS = 3
"""Parts of the feed, for streams that catch up, that are read at once."""


class _Thread(NamedTuple):
    """A thread with a connection of its own."""

    worker: ThreadPoolExecutor
    reader: Reader


class Pool:
    """Threads with a connection each, for reads of one kind."""

    def __init__(self, path: Path, threads: int) -> None:
        self._threads = [
            _Thread(ThreadPoolExecutor(1, f"view_{n}"), Reader(path)) for n in range(threads)
        ]
        self._idle = list(self._threads)
        self._turn = asyncio.Semaphore(threads)

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
        """Call `read(reader, …)`, to be awaited later; cancel what is not wanted any more."""
        started = asyncio.ensure_future(self.run(read, *args, **kwargs))
        started.add_done_callback(_retrieve)
        return started

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        for thread in self._threads:
            thread.worker.shutdown(cancel_futures=True)
            thread.reader.close()

    def _release(self, thread: _Thread) -> None:
        self._idle.append(thread)
        self._turn.release()


class Readers:
    """The connections of one process to one view.

    Attributes:
        path: the view's file.
        inline: for point reads that take less time than a change of threads (~100 µs).
        questions: for everything else that a call asks once.
        catch_ups: for streams, which may keep all of these threads busy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inline = Reader(path)
        self.questions = Pool(path, QUESTIONS)
        self.catch_ups = Pool(path, CATCH_UPS)

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        self.inline.close()
        self.questions.close()
        self.catch_ups.close()


def _retrieve(read: "asyncio.Future[T]") -> None:
    """Retrieve the error of a read: asyncio reports those that nobody awaits."""
    if not read.cancelled():
        read.exception()
