"""The journal's promises, which every engine keeps and the conformance suite checks."""

from typing import Protocol

from journal.append import Append, Done
from journal.entry import Appended, Entry, NewEntry


class JournalWriter(Protocol):
    """The side of the journal on which entries are appended.

    The journal is an append-only log of callbacks: the only truth.

    * **Durable.** `append` returns after the entry is on stable storage, never before. What it
      returned survives the death of the process and of the machine.
    * **Numbered.** Entries are numbered in the order in which they became durable. Numbers ascend
      and begin at 1 or later; some may be left out. A number is never used twice.
    * **Deduplicated** within the engine's window, which may be for ever (SQLite) or minutes.
      Appending an id that the window still has adds nothing and returns the first copy's revision.
      A copy that comes later gets a number of its own; the fold recognises it.
    * **One writer.** Only one process at a time may append to an embedded engine; another gets
      `InUse`.
    * **Bounded.** `append` waits at most its `timeout`.

    All methods may be called from any thread.
    """

    @property
    def id(self) -> str:
        """32 lower-case hexadecimal digits, made with the journal and never changed."""
        ...

    def append(self, entry: NewEntry, *, timeout: float) -> Appended:
        """Make `entry` durable, unless its id is there already.

        Args:
            entry: what to keep.
            timeout: seconds after which to give up.

        Raises:
            AppendTimedOut: not confirmed within `timeout`; the outcome is unknown.
            Overloaded: too many appends are waiting; not taken.
            Unavailable: the storage failed (full, read-only, gone); not taken. Later calls try
                again by themselves.
        """
        ...

    def submit(self, entry: NewEntry, done: Done) -> Append:
        """Begin an append and return at once, for callers that must not block.

        `done` is called once, when the outcome is known: it is what `append` would have returned or
        raised, but never `AppendTimedOut`. That may be in the thread that commits, which `done`
        holds up, or before `submit` returns: it must be short and must not call the journal. What
        it raises harms nobody.

        Raises:
            Overloaded, Closed: at once; not taken.
        """
        ...

    def close(self) -> None:
        """Finish the appends that are under way and let go of everything. May be called twice."""
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
            NotKept: `after` is less than `oldest() - 1`.
            Unavailable: the storage failed.
            Unreadable: the storage is damaged; the message names the revision.
        """
        ...

    def wait(self, after: int, *, timeout: float) -> bool:
        """Wait until there is an entry after `after`, at most `timeout` seconds.

        Returns True if there is one. Costs next to nothing while it waits, and returns within a
        few milliseconds of the append, also if another process did it.
        """
        ...

    def head(self) -> int:
        """The revision of the newest durable entry; 0 when there was none yet."""
        ...

    def oldest(self) -> int:
        """The lowest revision from which reading is possible; 1 unless the beginning was removed.

        There may be no entry with this number.
        """
        ...

    def close(self) -> None:
        """Let go of everything. Ends a `wait` under way. May be called twice."""
        ...


class Journal(JournalWriter, JournalReader, Protocol):
    """Both sides in one object, as embedded engines have them."""


READ_BYTES = 4 * 1024 * 1024
"""Bytes of bodies after which `read` stops early (it always returns at least one entry)."""
