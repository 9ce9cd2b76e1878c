"""Threads for blocking reads, each with a connection of its own, beside the event loop."""

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
"""Threads for questions; SQLite releases the GIL while it looks for rows."""

CATCH_UPS = 3
"""Threads for streams that catch up."""

BOARDS = 1
"""Threads for the live board: its sums are shared."""

HEAVY = 2
"""Threads for questions that read all of something."""


class _Thread(NamedTuple):
    worker: ThreadPoolExecutor
    reader: Reader


class Pool:
    """Threads with a connection each, for reads of one kind.

    Callers take turns, and no caller has all threads. A cancelled read keeps its thread until it
    ends.
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
        """Call `read(reader, …)` in a thread, on behalf of a caller."""
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
        """Begin `run`; the caller awaits the result later, or cancels it."""
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
        """Give idle threads to the callers whose last turn was longest ago."""
        while self._idle and (caller := self._next_caller()) is not None:
            turn = self._queues[caller].popleft()
            self._queues.move_to_end(caller)
            if not self._queues[caller]:
                del self._queues[caller]
            if not turn.cancelled():
                self._busy[caller] += 1
                # The thread that was busy last has warm caches.
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
        inline: for point reads in the event loop; a change of threads would take longer.
        questions: for the other questions of calls.
        heavy: for questions that read all of something.
        boards: for the live board.
        catch_ups: for streams.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.inline = Reader(path)
        self.questions, self.heavy, self.boards, self.catch_ups = self._pools = (
            Pool(path, QUESTIONS),
            Pool(path, HEAVY),
            Pool(path, BOARDS),
            Pool(path, CATCH_UPS),
        )

    def close(self) -> None:
        """Wait for the reads under way and close every connection."""
        self.inline.close()
        for pool in self._pools:
            pool.close()


def _retrieve(read: "asyncio.Future[T]") -> None:
    """Retrieve the error of a read, so that asyncio does not report one that nobody awaits."""
    if not read.cancelled():
        read.exception()
