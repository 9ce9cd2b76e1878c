"""A submitted append that a test waits for."""

from queue import SimpleQueue

from journal.append import Append
from journal.entry import Appended, NewEntry
from journal.errors import JournalError
from journal.group_commit import GroupCommit
from journal.port import Journal
from tests.support.journals import PATIENCE


class Submitted:
    """What `submit` began, and what it told of it."""

    def __init__(self, journal: Journal | GroupCommit, entry: NewEntry) -> None:
        self._told: SimpleQueue[Append] = SimpleQueue()
        self.append = journal.submit(entry, self._told.put)

    def outcome(self) -> Appended | JournalError:
        """Wait for it."""
        assert self._told.get(timeout=PATIENCE) is self.append
        assert self.append.outcome is not None
        return self.append.outcome

    def revision(self) -> int:
        """Wait until it is kept."""
        outcome = self.outcome()
        assert isinstance(outcome, Appended), outcome
        return outcome.revision
