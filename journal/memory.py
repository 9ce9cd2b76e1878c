"""The journal in memory: for tests, and the plainest statement of the port. Survives nothing."""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from operator import attrgetter
from uuid import uuid4

from journal.entry import Appended, Entry, NewEntry, numbered, validate
from journal.errors import Closed, NotKept
from journal.port import READ_BYTES, Waiter

FORGET_WITHIN = 1.0
"""Seconds; memory takes no time."""


class MemoryJournal:
    """`journal.port.Journal`, and its own `Eraser`, for as long as the process lives."""

    def __init__(self) -> None:
        self._id = uuid4().hex
        self._entries: list[Entry] = []
        self._oldest = 1
        self._revisions: dict[bytes, int] = {}
        self._changed = threading.Condition()
        self._closed = False

    @property
    def id(self) -> str:
        return self._id

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        validate(entry)
        with self._changed:
            self._check_open()
            if first := self._revisions.get(entry.id):
                return Appended(revision=first, duplicate=True)
            revision = self._revisions[entry.id] = self._next_revision()
            self._entries.append(numbered(entry, revision))
            self._changed.notify_all()
        return Appended(revision=revision, duplicate=False)

    def trouble(self) -> str:
        return "the journal is closed" if self._closed else ""

    def read(self, after: int, *, limit: int) -> list[Entry]:
        with self._changed:
            self._check_open()
            if after < self._oldest - 1:
                raise NotKept(self._oldest)
            start = bisect_right(self._entries, after, key=attrgetter("revision"))
            entries = self._entries[start : start + limit]
        room = READ_BYTES
        for count, entry in enumerate(entries, start=1):
            room -= len(entry.body)
            if room <= 0:
                return entries[:count]
        return entries

    def wait(self, after: int, *, timeout: float) -> bool:
        with self._changed:
            self._check_open()
            self._changed.wait_for(lambda: self._closed or self._head() > after, timeout)
            return self._head() > after

    def head(self) -> int:
        with self._changed:
            self._check_open()
            return self._head()

    def forget(self, entry: NewEntry) -> int:
        return self.append(entry, timeout=FORGET_WITHIN).revision

    def delete(self, revisions: Sequence[int]) -> None:
        with self._changed:
            self._check_open()
            gone = {revision for revision in revisions if revision < self._head()}
            self._entries = [each for each in self._entries if each.revision not in gone]
            known = self._revisions.items()
            self._revisions = {id_: revision for id_, revision in known if revision not in gone}

    def sweep(self) -> None:
        """Do nothing: `delete` has left nothing."""

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _head(self) -> int:
        return self._entries[-1].revision if self._entries else self._oldest - 1

    def _next_revision(self) -> int:
        return self._head() + 1

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the journal is closed")
