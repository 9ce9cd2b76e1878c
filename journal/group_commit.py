"""Group commit: many threads append, one commits, each commit serves all that wait.

Knows nothing of storage. The committing thread is its own, so that no appender waits in a system
call of the disk, and a timeout holds although the disk hangs.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from weakref import WeakSet

import structlog

from journal.entry import Appended, NewEntry
from journal.errors import (
    AppendTimedOut,
    Closed,
    JournalError,
    Overloaded,
    TooLarge,
    Unavailable,
)
from journal.port import Waiter
from metrics.definitions import (
    APPEND_DURATION,
    COMMIT_DURATION,
    COMMIT_ENTRIES,
    WAITING_APPENDS,
)

log = structlog.get_logger()

_all: WeakSet["GroupCommit"] = WeakSet()
WAITING_APPENDS.read_number(lambda: sum(each.waiting() for each in tuple(_all)))


@dataclass(frozen=True, kw_only=True)
class CommitLimits:
    """Limits of a group commit.

    Attributes:
        waiting: appends that may wait, those in a commit included; more are `Overloaded`.
        batch: entries in one commit.
        batch_bytes: bytes of bodies after which a batch is full; it always takes one entry.
        slow: seconds after which a commit under way counts as trouble; less than the timeout of an
            append.
        check_after: seconds without an append after which the storage is checked.
    """

    waiting: int = 512
    batch: int = 256
    batch_bytes: int = 4 * 1024 * 1024
    slow: float = 1.0
    check_after: float = 5.0


LIMITS = CommitLimits()


@dataclass(slots=True, eq=False)
class _Append:
    """An entry that waits for its commit. A withdrawn one is left out, if no commit has it yet."""

    entry: NewEntry
    event: Waiter
    outcome: Appended | JournalError | None = None
    withdrawn: bool = False


class GroupCommit:
    """A thread that commits entries in batches, in the order of appending.

    `commit` makes a batch durable and returns one outcome per entry, in order; it raises
    `Unavailable` if none of them is. The thread runs `afterwards` after each batch, when the
    appenders have been woken, and `check` after a time without appends. `check` returns the trouble
    of the storage, which errors call `storage`, or raises. Errors that are returned are shown to
    everybody; those that are raised may name files.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[NewEntry]], Sequence[Appended | JournalError]],
        *,
        afterwards: Callable[[], None],
        check: Callable[[], str | None] = lambda: None,
        limits: CommitLimits = LIMITS,
        storage: str = "the disk",
    ) -> None:
        self._commit = commit
        self._storage = storage
        self._afterwards = afterwards
        self._check = check
        self._limits = limits
        self._lock = threading.Lock()
        self._work = threading.Event()
        self._waiting: deque[_Append] = deque()
        self._committing = 0
        self._closed = False
        self._busy_since: float | None = None
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="journal-commit", daemon=True)
        self._thread.start()
        _all.add(self)

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        """Wait until `entry` is committed; see `journal.port.JournalWriter.append`."""
        began = monotonic()
        append = _Append(entry, event())
        self._add(append)
        append.event.wait(timeout)
        APPEND_DURATION.observe(monotonic() - began)
        outcome = append.outcome
        if outcome is None:
            append.withdrawn = True
            raise AppendTimedOut(f"{self._storage} did not confirm the entry in time")
        if isinstance(outcome, JournalError):  # the whole batch shares it: raise one of our own
            raise type(outcome)(*outcome.args) from outcome
        return outcome

    def waiting(self) -> int:
        """Return the number of appends that wait, those in a commit included."""
        return len(self._waiting) + self._committing

    def trouble(self) -> str:
        """Return the reason for which an append would probably fail, or "". Never waits."""
        busy_since = self._busy_since
        if self._closed:
            return "the journal is closed"
        if busy_since is not None and monotonic() - busy_since > self._limits.slow:
            return f"{self._storage} does not answer"
        if self._is_full():
            return "overloaded: too many appends are waiting"
        return self._failure

    def close(self, *, timeout: float) -> bool:
        """Refuse new appends and finish the others; return False after `timeout` seconds."""
        with self._lock:
            self._closed = True
        self._work.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _add(self, append: _Append) -> None:
        with self._lock:
            if self._closed:
                raise Closed("the journal is closed")
            if self._is_full():
                self._waiting = deque(each for each in self._waiting if not each.withdrawn)
            if self._is_full():
                raise Overloaded(f"{self._limits.waiting} appends are waiting for {self._storage}")
            self._waiting.append(append)
        if not self._work.is_set():
            self._work.set()

    def _is_full(self) -> bool:
        return self.waiting() >= self._limits.waiting

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._busy_since = monotonic()
            if batch:
                self._finish(batch)
                self._afterwards()
            else:
                self._failure = self._checked()
            self._busy_since = None

    def _next_batch(self) -> list[_Append] | None:
        """Wait for appends and take a batch; it is empty if a check is due, None after the last."""
        self._work.clear()  # an append from here on sets it again
        if not (self._waiting or self._closed):
            self._work.wait(self._limits.check_after)
        with self._lock:
            if self._closed and not self._waiting:
                return None
            batch: list[_Append] = []
            room = self._limits.batch_bytes
            while self._waiting and room > 0 and len(batch) < self._limits.batch:
                append = self._waiting.popleft()
                if not append.withdrawn:
                    batch.append(append)
                    room -= len(append.entry.body)
            self._committing = len(batch)
            return batch

    def _finish(self, batch: list[_Append]) -> None:
        began = monotonic()
        outcomes = self._outcomes([append.entry for append in batch])
        COMMIT_DURATION.observe(monotonic() - began)
        COMMIT_ENTRIES.observe(len(batch))
        self._committing = 0
        for append, outcome in zip(batch, outcomes, strict=True):
            append.outcome = outcome
            append.event.set()

    def _outcomes(self, entries: list[NewEntry]) -> Sequence[Appended | JournalError]:
        try:
            outcomes = self._commit(entries)
        except Exception as error:  # whatever it is, the thread must go on
            self._failure = "the last commit failed"
            if isinstance(error, Unavailable):
                return [error] * len(entries)
            log.exception("journal_commit_failed")
            return [Unavailable(f"the commit failed: {type(error).__name__}")] * len(entries)
        self._failure = str(outcomes[0]) if all(map(_is_failure, outcomes)) else ""
        return outcomes

    def _checked(self) -> str:
        """Return the trouble that `check` finds."""
        try:
            return self._check() or ""
        except Exception as error:
            return f"the journal cannot be used: {type(error).__name__}"


def _is_failure(outcome: Appended | JournalError) -> bool:
    """Return True if the storage is the cause, and not the entry."""
    return isinstance(outcome, JournalError) and not isinstance(outcome, TooLarge)
