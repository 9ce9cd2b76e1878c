"""The journal's errors. `Unavailable` is worth trying again; the others are not."""


class JournalError(Exception):
    """The journal cannot do it."""


class Unavailable(JournalError):
    """The journal cannot take or give entries now. The same call may succeed later."""


class AppendTimedOut(Unavailable):
    """Durability was not confirmed in time. The entry may be there or not: append it again."""


class Overloaded(Unavailable):
    """Too many appends are waiting already. The entry was not taken."""


class Closed(Unavailable):
    """The journal is shutting down. The entry was not taken."""


class TooLarge(Unavailable):
    """The entry is larger than the journal takes. It was not taken, and will not be."""


class OtherJournal(Unavailable):
    """Another journal stands in the place of the one that was opened."""


class Incomplete(Unavailable):
    """The journal is being copied to this place, and not all of it is there yet.

    Attributes:
        journal_id: its id.
    """

    def __init__(self, message: str, journal_id: str) -> None:
        super().__init__(message)
        self.journal_id = journal_id


class InUse(JournalError):
    """Another process is the journal's writer."""


class Unreadable(JournalError):
    """The stored data are damaged, or no journal of this version."""


class Damaged(Unreadable):
    """A part of the stored data cannot be read. Other parts may be whole."""


class OtherEntries(JournalError):
    """Source and target of a copy have different entries."""


class NotKept(JournalError):
    """The entries asked for have been removed.

    Attributes:
        oldest: the revision from which on reading is possible; there may be no entry with it.
    """

    def __init__(self, oldest: int) -> None:
        super().__init__(f"revisions before {oldest} are no longer kept")
        self.oldest = oldest
