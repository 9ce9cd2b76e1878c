"""A journal with gaps in its numbers, a short memory of ids and a beginning that may be removed."""

from typing import Any

from journal.entry import Appended, NewEntry
from journal.memory import MemoryJournal

WINDOW = 64
"""Ids that it recognises: those of the last appends."""


class SparseJournal(MemoryJournal):
    """A memory engine that promises no more than `journal.port` does, as one on a network would."""

    def append(self, entry: NewEntry, **options: Any) -> Appended:
        with self._changed:
            for forgotten in list(self._revisions)[:-WINDOW]:
                del self._revisions[forgotten]
            return super().append(entry, **options)

    def remove_before(self, oldest: int) -> None:
        """Remove all entries before a revision, as limits of a stream would."""
        with self._changed:
            self._entries = [entry for entry in self._entries if entry.revision >= oldest]
            self._oldest = oldest

    def _next_revision(self) -> int:
        return self._head() + 1 + len(self._entries) % 3
