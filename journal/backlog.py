"""The part of the journal that a view has not applied yet: for whoever serves the view.

Knows no engine. Reads only.
"""

import threading
from collections.abc import Callable

from journal.entry import Entry
from journal.errors import NotKept, Unavailable
from journal.port import JournalReader

PATIENCE = 1.0
"""Seconds to wait for a question of another thread that the disk does not answer."""


class Backlog:
    """Tells how far a revision is behind the journal.

    The journal is opened when it is first asked for, and again if that failed: it may not be there
    yet. May be called from any thread; one question is asked at a time.
    """

    def __init__(self, open_reader: Callable[[], JournalReader]) -> None:
        self._open = open_reader
        self._lock = threading.Lock()
        self._reader: JournalReader | None = None

    def __call__(self, after: int) -> tuple[int, int | None]:
        """Return the journal's head, and `received_at` (ms) of the first entry after `after`.

        The latter is None if there is no such entry.

        Raises:
            JournalError: the journal cannot be read; `Unavailable` also if another thread waits for
                it already.
        """
        if not self._lock.acquire(timeout=PATIENCE):
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
