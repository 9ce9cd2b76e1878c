"""A remote journal in memory that can be away, and spools before it."""

import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from random import random
from time import monotonic, sleep

from journal.entry import Appended, Entry, NewEntry
from journal.errors import AppendTimedOut, TooLarge, Unavailable
from journal.memory import MemoryJournal
from journal.port import Waiter
from journal.spool import SpooledWriter
from journal.sqlite import SqliteReader
from tests.support.journals import read_all
from tests.support.waiting import eventually

MAX_BYTES = 10**9


class Remote(MemoryJournal):
    """A journal in memory that does what a remote one may do.

    Attributes:
        away: it cannot be reached, and knows it.
        lost: answers do not arrive: it takes entries, and appends time out.
        max_body: bytes of the largest body that it takes.
        delivered: requests of entries that were appended, copies included.
        held: requests of entries that it does not confirm.
        is_uneven: some entries take longer than others.
    """

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.lost = False
        self.max_body = 1_000_000
        self.delivered: list[str] = []
        self.held: set[str] = set()
        self.is_uneven = False

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        end = monotonic() + timeout
        if self.away:
            raise Unavailable("nobody answers")
        if len(entry.body) > self.max_body:
            raise TooLarge("larger than it may be")
        if self.is_uneven:
            sleep(random() / 200)
        while entry.request_id in self.held:
            if monotonic() > end:
                raise AppendTimedOut("not confirmed")
            sleep(0.002)
        appended = super().append(entry, timeout=timeout, event=event)
        self.delivered.append(entry.request_id)
        if self.lost:
            sleep(max(0.0, end - monotonic()))
            raise AppendTimedOut("not confirmed")
        return appended

    def trouble(self) -> str:
        return "nobody answers" if self.away else super().trouble()

    def requests(self) -> list[str]:
        with self._changed:
            return [entry.request_id for entry in self._entries]


class SpooledJournal(SpooledWriter):
    """A spooled writer with the reading side of its remote journal."""

    def __init__(self, folder: Path) -> None:
        self._all = MemoryJournal()
        super().__init__(lambda _: self._all, folder, max_bytes=MAX_BYTES)

    def read(self, after: int, *, limit: int) -> list[Entry]:
        return self._all.read(after, limit=limit)

    def wait(self, after: int, *, timeout: float) -> bool:
        return self._all.wait(after, timeout=timeout)

    def head(self) -> int:
        return self._all.head()


def spooled(remote: Remote, folder: Path, max_bytes: int = MAX_BYTES) -> SpooledWriter:
    def open_(_: str) -> Remote:
        if remote.away:
            raise Unavailable("nobody answers")
        return remote

    return SpooledWriter(open_, folder, max_bytes=max_bytes, tick=0.02)


def spool(journal: SpooledWriter, entry: NewEntry) -> None:
    """Append an entry that the journal does not confirm, and check that the spool keeps it.

    The spool gets only what the journal leaves of the timeout. That may be too short on a busy
    machine: the entry is then appended again, and may be in the spool already.
    """
    for attempt in range(3):
        with suppress(AppendTimedOut):
            appended = journal.append(entry, timeout=2.0)
            assert appended == Appended(0, appended.duplicate and attempt > 0)
            return
    raise AssertionError("the spool did not keep the entry in time, three times")


def forwarded(journal: SpooledWriter) -> None:
    """Wait until the spool is empty."""
    eventually(lambda: not journal.notice())


def stored(file: Path) -> list[Entry]:
    with closing(SqliteReader(file)) as reader:
        return read_all(reader)  # type: ignore[arg-type]
