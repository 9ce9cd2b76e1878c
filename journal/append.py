"""An append that was begun and is not waited for. Knows nothing of engines."""

from collections.abc import Callable

import structlog

from journal.entry import Appended, NewEntry
from journal.errors import JournalError

log = structlog.get_logger()


class Append:
    """What `journal.port.Journal.submit` has begun.

    Plainer than a `Future`, which costs as much as all else that the journal does for an entry.

    Attributes:
        entry: what is to be kept.
        outcome: what `append` would return or raise; None as long as that is not known.
        withdrawn: set it, and the entry is left out, unless a commit has taken it already. If it is
            left out, there is never an outcome.
    """

    __slots__ = ("_done", "entry", "outcome", "withdrawn")

    def __init__(self, entry: NewEntry, done: "Done") -> None:
        self.entry = entry
        self.outcome: Appended | JournalError | None = None
        self.withdrawn = False
        self._done = done

    def settle(self, outcome: Appended | JournalError) -> None:
        """For the engine: say what became of it, whatever the one who is told makes of that."""
        self.outcome = outcome
        try:
            self._done(self)
        except Exception:
            log.exception("journal_callback_broke")


Done = Callable[[Append], None]
"""What is called when the outcome is known."""
