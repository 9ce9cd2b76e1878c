"""The journal's promises, which every engine keeps and the conformance suite checks."""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from journal.entry import Appended, Entry, NewEntry

READ_BYTES = 4 * 1024 * 1024
"""Bytes of bodies after which `read` stops early (it always returns at least one entry)."""


class Waiter(Protocol):
    """A flag that one thread sets, once, and one appender waits for, as `threading.Event`."""

    def set(self) -> None:
        """Let the appender go on. Called by the committing thread; returns at once."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait until the flag is set, at most `timeout` seconds; return True if it is."""
        ...


class JournalWriter(Protocol):
    """The side of the journal on which entries are appended.

    * **Durable.** `append` returns after the entry is on stable storage, never before. The entry
      then survives the death of the process and of the machine.
    * **Numbered.** Entries are numbered in the order in which they became durable. Numbers ascend
      from 1 or later; some may be left out. A number is never used twice.
    * **Deduplicated** within the engine's window, which may be for ever (SQLite) or minutes.
      Appending an id that is in the window adds nothing and returns the first copy's revision. A
      copy that comes later gets a number of its own; the fold recognises it.
    * **One writer.** Only one process at a time may append to an embedded engine; another gets
      `InUse`.
    * **Bounded.** `append` waits at most its `timeout`.

    All methods may be called from any thread.
    """

    @property
    def id(self) -> str:
        """32 lower-case hexadecimal digits, made with the journal and never changed."""
        ...

    def append(
        self, entry: NewEntry, *, timeout: float, event: Callable[[], Waiter] = threading.Event
    ) -> Appended:
        """Make `entry` durable, unless its id is there already.

        Args:
            entry: the entry to keep.
            timeout: seconds after which to give up.
            event: makes the flag to wait for. A caller that must not block its thread passes one
                that switches to other work.

        Raises:
            AppendTimedOut: not confirmed within `timeout`; the outcome is unknown.
            Overloaded: too many appends are waiting; not taken.
            Unavailable: the storage failed (full, read-only, gone); not taken. A later call tries
                again.
        """
        ...

    def trouble(self) -> str:
        """Return the reason for which an append would probably fail now, or "".

        Reads no disk and never waits: the reason is from the last commit, or from a regular check
        by the committing thread.
        """
        ...

    def close(self) -> None:
        """Finish the appends under way and release everything. May be called twice."""
        ...


class JournalReader(Protocol):
    """The side of the journal on which entries are read, in any number of processes.

    * **Exact.** `read` returns entries exactly as they were appended, in ascending order. An entry
      that could still be lost is never returned. An entry never changes; it may be removed.
    * **Bounded.** `read` returns at most `limit` entries and about `READ_BYTES` bytes.

    All methods may be called from any thread.
    """

    @property
    def id(self) -> str:
        """The same as the writer's."""
        ...

    def read(self, after: int, *, limit: int) -> list[Entry]:
        """Return up to `limit` entries whose revision is greater than `after`, ascending.

        Empty when there are none yet. May return fewer than `limit` although more follow. A number
        that is missing in between was left out or its entry removed: that is no error.

        Raises:
            NotKept: entries after `after` may have been removed, and no FORGET entry after it
                explains that. The error says from where on reading is possible: from 1, unless the
                beginning was removed.
            Unavailable: the storage failed; `OtherJournal` if it has another journal now.
            Damaged: the next entry cannot be read; the message names the revision.
        """
        ...

    def wait(self, after: int, *, timeout: float) -> bool:
        """Wait until there is an entry after `after`, at most `timeout` seconds.

        Returns True if there is one. Costs next to nothing while it waits, and returns within a
        few milliseconds of the append, also if another process did it.
        """
        ...

    def head(self) -> int:
        """Return the revision of the newest durable entry; 0 when there was none yet."""
        ...

    def close(self) -> None:
        """Release everything. Ends a `wait` under way. May be called twice."""
        ...


class Eraser(Protocol):
    """The side of the journal on which it forgets, beside its writers, in any number of processes.

    * **Ordered.** A FORGET entry is appended first, and what it lists is deleted later.
    * **Gentle.** Erasing works in small steps and rests between them, so that appends need not
      wait for long.
    * **Repeatable.** After a crash the same calls finish the work.

    An id that was deleted is no repetition any more, once it has left the engine's window.
    """

    @property
    def id(self) -> str:
        """The same as the writer's."""
        ...

    def forget(self, entry: NewEntry) -> int:
        """Make a FORGET entry durable, unless its id is there already; return its revision.

        Raises:
            Unavailable: the storage failed. The outcome is unknown: call again with the same entry.
        """
        ...

    def delete(self, revisions: Sequence[int]) -> None:
        """Delete entries for good, all of them older than the newest one.

        Those that are gone already are passed over. Copies of their bytes may stay in other places
        of the engine until `sweep`.

        Raises:
            Unavailable: the storage failed. Some may be deleted.
        """
        ...

    def sweep(self) -> None:
        """Overwrite or remove what is left of the deleted entries in the engine's files.

        Raises:
            Unavailable: that is not possible now; a reader may be in the way. Call again later.
        """
        ...

    def close(self) -> None:
        """Release everything. May be called twice."""
        ...


class Journal(JournalWriter, JournalReader, Protocol):
    """Both sides in one object, as embedded engines have them."""
