"""Group commit: many append at once, one thread commits, each commit pays for all who wait.

Knows nothing of storage. The committing thread is its own, so that nobody who appends ever waits
in a system call of the disk, and a timeout can be kept although the disk hangs.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from journal.entry import Appended, NewEntry
from journal.errors import AppendTimedOut, Closed, JournalError, Overloaded, Unavailable
from journal.port import Waiter

MAX_WAITING = 512
"""Appends that may wait, those in a commit included; more are refused as `Overloaded`."""

MAX_BATCH = 256
"""Entries in one commit."""

MAX_BATCH_BYTES = 4 * 1024 * 1024
"""Bytes of bodies after which a batch is full (it always takes one entry)."""

SLOW = 1.0
"""Seconds after which a commit under way counts as trouble. Less than what an append waits for."""

CHECK = 5.0
"""Seconds without an append after which the committing thread checks the storage."""

Commit = Callable[[Sequence[NewEntry]], list[Appended]]
"""Makes a batch durable, all or nothing, and returns one outcome per entry, in order.

Raises `Unavailable` if it could not."""


log = structlog.get_logger()


class _Append:
    """An entry that waits for its commit. Withdrawn, it is left out unless a commit has it."""

    __slots__ = ("entry", "event", "outcome", "withdrawn")

    def __init__(self, entry: NewEntry, event: Waiter) -> None:
        self.entry = entry
        self.event = event
        self.outcome: Appended | JournalError | None = None
        self.withdrawn = False


class GroupCommit:
    """Runs `commit` on batches, in a thread of its own, in the order of appending.

    The same thread runs `afterwards` after each batch, when its appenders have been woken, and
    `check` after `CHECK` seconds without an append. `check` raises if the storage is in trouble.
    """

    def __init__(
        self,
        commit: Commit,
        *,
        afterwards: Callable[[], None],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._commit = commit
        self._afterwards = afterwards
        self._check = check
        self._lock = threading.Lock()
        self._waiting: deque[_Append] = deque()
        self._committing = 0
        self._closed = False
        self._busy_since: float | None = None
        self._failure = ""
        self._work = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)
        self._thread.start()

    def append(
        self,
        entry: NewEntry,
        *,
        timeout: float,
        event: Callable[[], Waiter] = threading.Event,
    ) -> Appended:
        """Wait until `entry` is committed; see `journal.port.JournalWriter.append`."""
        append = _Append(entry, event())
        self._add(append)
        append.event.wait(timeout)
        outcome = append.outcome
        if outcome is None:
            append.withdrawn = True
            raise AppendTimedOut("the disk did not confirm the entry in time")
        if isinstance(outcome, JournalError):  # others get it too: to each one of its own
            raise type(outcome)(*outcome.args) from outcome
        return outcome

    def trouble(self) -> str:
        """Return why an append would probably fail; "" if it would not. Never waits."""
        busy_since = self._busy_since
        if self._closed:
            return "the journal is closed"
        if busy_since is not None and monotonic() - busy_since > SLOW:
            return "the disk does not answer"
        if self._is_full():
            return "overloaded: too many appends are waiting"
        return self._failure

    def close(self, *, timeout: float) -> bool:
        """Take no more, finish what waits; return False if that takes longer than `timeout` s."""
        with self._lock:
            self._closed = True
        self._wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _add(self, append: _Append) -> None:
        with self._lock:
            if self._closed:
                raise Closed("the journal is closed")
            if self._is_full():
                self._waiting = deque(each for each in self._waiting if not each.withdrawn)
            if self._is_full():
                raise Overloaded(f"{MAX_WAITING} appends are waiting for the disk")
            self._waiting.append(append)
        self._wake()

    def _is_full(self) -> bool:
        return len(self._waiting) + self._committing >= MAX_WAITING

    def _wake(self) -> None:
        if not self._work.is_set():
            self._work.set()

    def _run(self) -> None:
        while self._wait():
            self._busy_since = monotonic()
            if batch := self._next_batch():
                self._finish(batch)
                self._afterwards()
            else:
                self._failure = self._found()
            self._busy_since = None

    def _wait(self) -> bool:
        """Wait for appends, or until a check is due; False: closed and finished."""
        self._work.clear()  # from now on; who adds something later must wake us
        if not (self._waiting or self._closed):
            self._work.wait(CHECK)
        return bool(self._waiting) or not self._closed

    def _next_batch(self) -> list[_Append]:
        """Take as many as one commit may have; those that were withdrawn are left out."""
        batch: list[_Append] = []
        room = MAX_BATCH_BYTES
        with self._lock:
            while self._waiting and room > 0 and len(batch) < MAX_BATCH:
                append = self._waiting.popleft()
                if not append.withdrawn:
                    batch.append(append)
                    room -= len(append.entry.body)
            self._committing = len(batch)
        return batch

    def _finish(self, batch: list[_Append]) -> None:
        outcomes = self._outcomes(batch)
        self._committing = 0
        for append, outcome in zip(batch, outcomes, strict=True):
            append.outcome = outcome
            append.event.set()

    def _outcomes(self, batch: list[_Append]) -> Sequence[Appended | JournalError]:
        try:
            outcomes = self._commit([append.entry for append in batch])
        except Unavailable as failure:
            self._failure = "the last commit failed"
            return [failure] * len(batch)
        except Exception as error:  # the thread must live on: every append depends on it
            log.exception("journal_commit_broke")
            self._failure = "the last commit failed"
            return [Unavailable(f"the commit failed: {type(error).__name__}")] * len(batch)
        self._failure = ""
        return outcomes

    def _found(self) -> str:
        """Return the trouble that `check` finds."""
        try:
            self._check()
        except Exception as error:
            return f"the journal cannot be used: {type(error).__name__}"
        return ""
