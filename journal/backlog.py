"""The part of the journal that a view has not applied yet: for the processes that serve the view.

Knows no engine. Reads only.
"""

import threading
from collections.abc import Callable

from journal.entry import Entry
from journal.errors import NotKept, Unavailable
from journal.port import JournalReader


class Backlog:
    """The distance of a revision from the journal's head.

    Opens the journal at the first question, and again if that failed: it may not be there yet. May
    be called from any thread; one question is asked at a time, and the next waits `patience` s.
    """

    def __init__(self, open_reader: Callable[[], JournalReader], *, patience: float = 1.0) -> None:
        self._open = open_reader
        self._patience = patience
        self._lock = threading.Lock()
        self._reader: JournalReader | None = None

    def __call__(self, after: int) -> tuple[int, int | None]:
        """Return the journal's head, and `received_at` (ms) of the first entry after `after`.

        The latter is None if there is no such entry.

        Raises:
            JournalError: the journal cannot be read; `Unavailable` also if it does not answer
                another thread either.
        """
        if not self._lock.acquire(timeout=self._patience):
            raise Unavailable("the journal does not answer")
        try:
            self._reader = self._reader or self._open()
            entries = _first_after(self._reader, after)
            # The head is read last, so that it is never behind the entry.
            return self._reader.head(), entries[0].received_at if entries else None
        finally:
            self._lock.release()


def _first_after(reader: JournalReader, after: int) -> list[Entry]:
    try:
        return reader.read(after, limit=1)
    except NotKept as removed:
        return reader.read(removed.oldest - 1, limit=1)
