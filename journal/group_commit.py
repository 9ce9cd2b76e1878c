"""Group commit: many append at once, one thread commits, each commit pays for all who wait.

Knows nothing of storage. The committing thread is its own, so that nobody who appends ever waits
in a system call of the disk, and a timeout can be kept although the disk hangs.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from journal.append import Append, Done
from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, Closed, JournalError, Overloaded, Unavailable

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


class GroupCommit:
    """Runs `commit` on batches, in a thread of its own, in the order of appending.

    After each batch, when its appenders have been woken, `afterwards` runs in the same thread.
    """

    def __init__(self, commit: Commit, *, afterwards: Callable[[], None]) -> None:
        self._commit = commit
        self._afterwards = afterwards
        self._lock = threading.Lock()
        self._waiting: deque[Append] = deque()
        self._closed = False
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)
        self._thread.start()

    def submit(self, entry: NewEntry, done: Done) -> Append:
        """Begin to commit `entry`; see `journal.port.Journal.submit`."""
        append = Append(entry, done)
        with self._lock:
            if self._closed:
                raise Closed("the journal is closed")
            if len(self._waiting) >= MAX_WAITING:
                self._forget_withdrawn()
            if len(self._waiting) >= MAX_WAITING:
                raise Overloaded(f"{MAX_WAITING} appends are waiting for the disk")
            self._waiting.append(append)
        self._wake()
        return append

    def append(self, entry: NewEntry, *, timeout: float) -> Appended:
        """Wait until `entry` is committed; see `journal.port.Journal.append`."""
        done = threading.Event()
        append = self.submit(entry, lambda _append: done.set())
        done.wait(timeout)
        outcome = append.outcome
        if outcome is None:
            append.withdrawn = True
            raise AppendTimedOut("the disk did not confirm the entry in time")
        if isinstance(outcome, JournalError):  # others are told of it too: to each one of its own
            raise type(outcome)(*outcome.args) from outcome
        return outcome

    def close(self, *, timeout: float) -> bool:
        """Take no more, finish what waits; return False if that takes longer than `timeout` s."""
        with self._lock:
            self._closed = True
        self._wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _forget_withdrawn(self) -> None:
        self._waiting = deque(append for append in self._waiting if not append.withdrawn)

    def _wake(self) -> None:
        if not self._work.is_set():
            self._work.set()

    def _run(self) -> None:
        while self._wait():
            if batch := self._next_batch():
                self._finish(batch)
                self._afterwards()

    def _wait(self) -> bool:
        """Wait for appends; False: closed and finished."""
        self._work.clear()  # from now on; who adds something later must wake us
        if not (self._waiting or self._closed):
            self._work.wait()
        return bool(self._waiting) or not self._closed

    def _next_batch(self) -> list[Append]:
        """Take as many as one commit may have; those that were withdrawn are left out."""
        batch: list[Append] = []
        room = MAX_BATCH_BYTES
        with self._lock:
            while self._waiting and room > 0 and len(batch) < MAX_BATCH:
                append = self._waiting.popleft()
                if not append.withdrawn:
                    batch.append(append)
                    room -= len(append.entry.body)
        return batch

    def _finish(self, batch: list[Append]) -> None:
        for append, outcome in zip(batch, self._outcomes(batch), strict=True):
            append.settle(outcome)

    def _outcomes(self, batch: list[Append]) -> Sequence[Appended | JournalError]:
        try:
            return self._commit([append.entry for append in batch])
        except Unavailable as failure:
            return [failure] * len(batch)
        except Exception as error:  # the thread must live on: every append depends on it
            log.exception("journal_commit_broke")
            return [Unavailable(f"the commit failed: {type(error).__name__}")] * len(batch)
