"""Keeps blocking reads off the event loop: a few threads, each with a connection of its own."""

import asyncio
from collections import Counter, OrderedDict, deque
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

HEAVY = 2
"""Reads of all of something at once, one of each caller."""


class _Thread(NamedTuple):
    """A thread with a connection of its own."""

    worker: ThreadPoolExecutor
    reader: Reader


class Pool:
    """Threads with a connection each, for reads of one kind.

    Callers are served in turn, and one of them never has all threads. A thread is taken until its
    read has ended, also where that was given up.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._threads = [
            _Thread(ThreadPoolExecutor(1, f"view_{n}"), Reader(path)) for n in range(threads)
        ]
        self._idle = list(self._threads)
        self._share = max(1, threads - 1)
        self._busy: Counter[str] = Counter()
        self._queues: OrderedDict[str, deque[asyncio.Future[_Thread]]] = OrderedDict()

    async def run(
        self,
        caller: str,
        read: Callable[Concatenate[Reader, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call `read(reader, …)` in a thread, for a caller."""
        thread = await self._turn(caller)
        release = partial(
            asyncio.get_running_loop().call_soon_threadsafe, self._release, caller, thread
        )
        work = thread.worker.submit(read, thread.reader, *args, **kwargs)
        work.add_done_callback(lambda _: release())
        return await asyncio.wrap_future(work)

    def start(
        self,
        caller: str,
        read: Callable[Concatenate[Reader, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> "asyncio.Future[T]":
        """Call `read(reader, …)`, to be awaited later; cancel what is not wanted any more."""
        started = asyncio.ensure_future(self.run(caller, read, *args, **kwargs))
        started.add_done_callback(_retrieve)
        return started

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        for thread in self._threads:
            thread.worker.shutdown(cancel_futures=True)
            thread.reader.close()

    async def _turn(self, caller: str) -> _Thread:
        turn: asyncio.Future[_Thread] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        self._serve()
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._release(caller, turn.result())
            raise

    def _serve(self) -> None:
        """Give idle threads to the callers that have waited longest since their last turn."""
        while self._idle and (caller := self._next_caller()) is not None:
            turn = self._queues[caller].popleft()
            self._queues.move_to_end(caller)
            if not self._queues[caller]:
                del self._queues[caller]
            if not turn.cancelled():
                self._busy[caller] += 1
                # The one that was busy last: its caches and the memory it has freed are warm.
                turn.set_result(self._idle.pop())

    def _next_caller(self) -> str | None:
        return next((each for each in self._queues if self._busy[each] < self._share), None)

    def _release(self, caller: str, thread: _Thread) -> None:
        self._busy[caller] -= 1
        if not self._busy[caller]:
            del self._busy[caller]
        self._idle.append(thread)
        self._serve()


class Readers:
    """The connections of one process to one view.

    Attributes:
        path: the view's file.
        inline: for point reads that take less time than a change of threads (~100 µs).
        questions: for everything else that a call asks once.
        heavy: for questions about all of something.
        catch_ups: for streams, which may keep all of these threads busy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inline = Reader(path)
        self.questions = Pool(path, QUESTIONS)
        self.heavy = Pool(path, HEAVY)
        self.catch_ups = Pool(path, CATCH_UPS)

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        self.inline.close()
        self.questions.close()
        self.heavy.close()
        self.catch_ups.close()


def _retrieve(read: "asyncio.Future[T]") -> None:
    """Retrieve the error of a read: asyncio reports those that nobody awaits."""
    if not read.cancelled():
        read.exception()
