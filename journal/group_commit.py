"""Group commit: many threads append, one thread commits, each commit pays for all who wait.

Knows nothing of storage. The committing thread is its own, so that nobody who appends ever waits
in a system call of the disk, and a timeout can be kept although the disk hangs.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, Closed, Overloaded, Unavailable

MAX_WAITING = 1024
"""Appends that may wait; more are refused as `Overloaded`."""

MAX_BATCH = 256
"""Entries in one commit."""

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of bodies after which a batch is full (it always takes one entry)."""

Commit = Callable[[Sequence[NewEntry]], list[Appended]]
"""Makes a batch durable, all or nothing, and returns one outcome per entry, in order.

Raises `Unavailable` if it could not; nobody is told that it could."""


log = structlog.get_logger()


class _Append:
    """One append that waits. The lock is the cheapest way to wake exactly one thread, once."""

    __slots__ = ("done", "entry", "outcome")

    def __init__(self, entry: NewEntry) -> None:
        self.entry = entry
        self.outcome: Appended | Unavailable = Unavailable("not committed")
        self.done = threading.Lock()
        self.done.acquire()

    def finish(self, outcome: Appended | Unavailable) -> None:
        self.outcome = outcome
        self.done.release()

    def result(self) -> Appended:
        if isinstance(self.outcome, Appended):
            return self.outcome
        # Several threads may be told of one failure: each raises an exception of its own.
        raise type(self.outcome)(*self.outcome.args) from self.outcome


class GroupCommit:
    """Runs `commit` on batches, in a thread of its own, in the order of appending.

    After each batch, when its appenders have been woken, `afterwards` runs in the same thread.
    """

    def __init__(self, commit: Commit, *, afterwards: Callable[[], None]) -> None:
        self._commit = commit
        self._afterwards = afterwards
        self._waiting: deque[_Append] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)
        self._thread.start()

    def append(self, entry: NewEntry, *, timeout: float) -> Appended:
        """Wait until `entry` is committed; see `journal.port.Journal.append`."""
        deadline = monotonic() + timeout
        append = _Append(entry)
        self._enqueue(append)
        if not append.done.acquire(timeout=max(0.0, deadline - monotonic())):
            self._give_up(append)
        return append.result()

    def close(self, *, timeout: float) -> bool:
        """Take no more, finish what waits; return False if that takes longer than `timeout` s."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _enqueue(self, append: _Append) -> None:
        with self._changed:
            if self._closed:
                raise Closed("the journal is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise Overloaded(f"{MAX_WAITING} appends are waiting for the disk")
            self._waiting.append(append)
            self._changed.notify()

    def _give_up(self, append: _Append) -> None:
        """Withdraw `append`; return only if it was finished in the last moment."""
        with self._changed:
            if append in self._waiting:
                self._waiting.remove(append)
                raise AppendTimedOut("the disk did not take the entry in time")
        if not append.done.acquire(blocking=False):
            raise AppendTimedOut("the disk did not confirm the entry in time")

    def _run(self) -> None:
        while batch := self._next_batch():
            for append, outcome in zip(batch, self._outcomes(batch), strict=True):
                append.finish(outcome)
            self._afterwards()

    def _next_batch(self) -> list[_Append]:
        """Wait for appends and take as many as one commit may have; none: closed and finished."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: list[_Append] = []
            room = MAX_BATCH_BYTES
            while self._waiting and room > 0 and len(batch) < MAX_BATCH:
                batch.append(self._waiting.popleft())
                room -= len(batch[-1].entry.body)
            return batch

    def _outcomes(self, batch: list[_Append]) -> Sequence[Appended | Unavailable]:
        try:
            return self._commit([append.entry for append in batch])
        except Unavailable as failure:
            return [failure] * len(batch)
        except Exception as error:  # the thread must live on: every append depends on it
            log.exception("journal.commit_broke")
            return [Unavailable(f"the commit failed: {type(error).__name__}")] * len(batch)
