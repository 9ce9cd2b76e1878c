"""Group commit: many append at once, one thread commits, each commit pays for all who wait.

Knows nothing of storage. The committing thread is its own, so that nobody who appends ever waits
in a system call of the disk, and a timeout can be kept although the disk hangs.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

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


class _Append(NamedTuple):
    """One append that waits, and what its caller was promised."""

    entry: NewEntry
    outcome: Future[Appended]


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

    def submit(self, entry: NewEntry) -> Future[Appended]:
        """Begin to commit `entry`; see `journal.port.Journal.submit`."""
        append = _Append(entry, Future())
        with self._changed:
            if self._closed:
                raise Closed("the journal is closed")
            if len(self._waiting) >= MAX_WAITING:
                self._forget_cancelled()
            if len(self._waiting) >= MAX_WAITING:
                raise Overloaded(f"{MAX_WAITING} appends are waiting for the disk")
            self._waiting.append(append)
            self._changed.notify()
        return append.outcome

    def append(self, entry: NewEntry, *, timeout: float) -> Appended:
        """Wait until `entry` is committed; see `journal.port.Journal.append`."""
        outcome = self.submit(entry)
        try:
            return outcome.result(timeout)
        except TimeoutError:
            outcome.cancel()
            raise AppendTimedOut("the disk did not confirm the entry in time") from None

    def close(self, *, timeout: float) -> bool:
        """Take no more, finish what waits; return False if that takes longer than `timeout` s."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _forget_cancelled(self) -> None:
        waiting = (append for append in self._waiting if not append.outcome.cancelled())
        self._waiting = deque(waiting)

    def _run(self) -> None:
        while self._wait():
            if batch := self._next_batch():
                self._finish(batch)
                self._afterwards()

    def _finish(self, batch: list[_Append]) -> None:
        for append, outcome in zip(batch, self._outcomes(batch), strict=True):
            if isinstance(outcome, Appended):
                append.outcome.set_result(outcome)
            else:  # several threads may be told of one failure: each raises one of its own
                failure = type(outcome)(*outcome.args)
                failure.__cause__ = outcome
                append.outcome.set_exception(failure)

    def _wait(self) -> bool:
        """Wait for appends; False: closed and finished."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return bool(self._waiting)

    def _next_batch(self) -> list[_Append]:
        """Take as many as one commit may have; those that were cancelled are left out."""
        with self._changed:
            batch: list[_Append] = []
            room = MAX_BATCH_BYTES
            while self._waiting and room > 0 and len(batch) < MAX_BATCH:
                append = self._waiting.popleft()
                if append.outcome.set_running_or_notify_cancel():
                    batch.append(append)
                    room -= len(append.entry.body)
            return batch

    def _outcomes(self, batch: list[_Append]) -> Sequence[Appended | Unavailable]:
        try:
            return self._commit([append.entry for append in batch])
        except Unavailable as failure:
            return [failure] * len(batch)
        except Exception as error:  # the thread must live on: every append depends on it
            log.exception("journal_commit_broke")
            return [Unavailable(f"the commit failed: {type(error).__name__}")] * len(batch)
